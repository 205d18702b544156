"""x86-64 with AVX-512 F, BW, DQ and VL: Skylake-SP."""

from lqcompile.target import Target

TARGET = Target(
    name="x86-avx512",
    description="x86-64 with AVX-512 F/BW/DQ/VL (Skylake-SP)",
    machine="x86_64",
    schedule="x86",
    llvm={"mcpu": "skylake-avx512"},
    features=("avx2", "fma", "bmi2", "popcnt", "avx512f", "avx512bw", "avx512dq", "avx512vl"),
    vector_bits=512,
)
