"""64-bit ARM without extensions: every ARMv8-A processor."""

from lqcompile.target import Target

TARGET = Target(
    name="arm-neon",
    description="ARMv8-A, every 64-bit ARM processor (Cortex-A53, A72, A73)",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
    features=("asimd",),
)
