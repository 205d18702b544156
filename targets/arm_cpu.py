"""Any 64-bit ARM processor: ARMv8-A with its NEON unit."""

from lqcompile.target import Target

TARGET = Target(
    name="arm-cpu",
    description="64-bit ARM (ARMv8-A), any processor",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
    features=("asimd",),
)
