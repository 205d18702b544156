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
    # For each multiprocessor (CUDA C++ Programming Guide, "Arithmetic Instructions", 8.7): 128 float32, 64 DP4A, 16
    # POPC of 32 bits. NVIDIA publishes no rates of its tensor cores by instruction.
    peaks={"Popcount": 512, "Dot8": 256, "FloatFma": 128, "Packed": 128},
)
