"""The training front-end (PyTorch): quantizers, layers, conversion and export."""
