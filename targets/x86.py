"""Any x86-64 processor from AVX2 on: one artifact that carries a variant per instruction set."""

from lqcompile.target import Target

TARGET = Target(
    name="x86",
    description="x86-64 from AVX2 on; one artifact, the best variant is picked at load",
    machine="x86_64",
    schedule="x86",
    variants=("x86-avx2", "x86-avx-vnni", "x86-avx512", "x86-avx512-vnni", "x86-avx512-vpopcntdq", "x86-amx"),
)
