"""x86-64 with AVX2 and FMA: Haswell, Zen and later."""

from lqcompile.target import Target

TARGET = Target(
    name="x86-avx2",
    description="x86-64 with AVX2 and FMA (Haswell, Zen 1 to 3)",
    machine="x86_64",
    schedule="x86",
    llvm={"mcpu": "haswell"},
    features=("avx2", "fma", "bmi2", "popcnt"),
    vector_bits=256,
)
