"""NVIDIA GPUs: from kernels to device code (source, nvrtc, launches) and running it (driver, model)."""
