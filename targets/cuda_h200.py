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
    # For each multiprocessor: 0.54 binary mma.m16n8k256 a cycle, as others measured on a GH200; bytes as of the tensor
    # cores' data sheet (1979 TOPS dense at 1.83 GHz, by wgmma; mma reaches less). Binary wgmma: nobody has measured it.
    # CUDA cores (CUDA C++ Programming Guide, "Arithmetic Instructions", 9.0): 128 float32, 64 DP4A, 16 POPC of 32 bits.
    peaks={"B1Mma": 17700, "I8Mma": 4096, "Popcount": 512, "Dot8": 256, "FloatFma": 128, "Packed": 128},
)
