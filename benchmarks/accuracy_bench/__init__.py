"""Parts of benchmarks/accuracy.py and benchmarks/quantization_error.py."""
