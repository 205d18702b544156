"""Any 64-bit ARM processor: one artifact that carries a variant per instruction set."""

from lqcompile.target import Target

TARGET = Target(
    name="arm-cpu",
    description="64-bit ARM on Linux; one artifact, the best variant is picked at load",
    machine="aarch64",
    schedule="arm_cpu",
    variants=("arm-neon", "arm-dotprod", "arm-i8mm"),
)
