"""64-bit ARM with the dot product: Cortex-A55 and A75, Neoverse N1, and later."""

from lqcompile.target import Target

TARGET = Target(
    name="arm-dotprod",
    description="ARMv8.2-A with SDOT (Cortex-A55, A75 to A78, Neoverse N1)",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"},
    features=("asimd", "asimddp"),
)
