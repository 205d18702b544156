"""How the operators run: one file per architecture, with its kernels and design space."""
