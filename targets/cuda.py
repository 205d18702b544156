"""NVIDIA GPUs from the Ampere generation on: one artifact with machine code for 8.x and PTX for what comes later."""

from lqcompile.target import Target

TARGET = Target(
    name="cuda",
    description="NVIDIA GPUs from compute capability 8.0 on; machine code for 8.x, PTX for the others",
    machine="cuda",
    schedule="cuda",
    variants=("cuda-ptx", "cuda-a100"),
    samples=32,
)
