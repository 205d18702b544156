"""NVIDIA GPUs of the Hopper generation."""

from lqcompile.target import Target

TARGET = Target(
    name="cuda-h200",
    description="NVIDIA H100, H200 and GH200 (compute capability 9.0)",
    machine="cuda",
    schedule="cuda",
    llvm={"arch": "sm_90a"},
    features=("sm_90a",),
    vector_bits=1024,
    multiprocessors=132,
    samples=32,
)
