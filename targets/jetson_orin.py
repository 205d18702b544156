"""NVIDIA Jetson boards with an Orin processor."""

from lqcompile.target import Target

TARGET = Target(
    name="jetson-orin",
    description="NVIDIA Jetson AGX Orin, Orin NX and Orin Nano (compute capability 8.7)",
    machine="cuda",
    schedule="cuda",
    llvm={"arch": "sm_87"},
    features=("sm_87",),
    vector_bits=1024,
    multiprocessors=16,
    samples=8,
)
