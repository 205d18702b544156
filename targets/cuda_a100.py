"""NVIDIA GPUs of the Ampere and Ada generations."""

from lqcompile.target import Target

TARGET = Target(
    name="cuda-a100",
    description="NVIDIA A100, and others of compute capability 8.x",
    machine="cuda",
    schedule="cuda",
    llvm={"arch": "sm_80"},
    features=("sm_80",),
    vector_bits=1024,
    multiprocessors=108,
    samples=32,
)
