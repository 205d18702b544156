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
    # For each multiprocessor of an A100: 4992 and 624 TOPS of bits and bytes at 1.41 GHz (its whitepaper). CUDA cores
    # (CUDA C++ Programming Guide, "Arithmetic Instructions"): 64 DP4A, 16 POPC of 32 bits, and 128 float32 as of 8.6
    # and 8.9; an A100 does half of these.
    peaks={"B1Mma": 16384, "I8Mma": 2048, "Popcount": 512, "Dot8": 256, "FloatFma": 128, "Packed": 128},
)
