"""64-bit ARM with 8-bit matrix products: Neoverse V1 and N2, Cortex-A510 and A710, and later."""

from lqcompile.target import Target

TARGET = Target(
    name="arm-i8mm",
    description="ARMv8.6-A with SMMLA (Cortex-A510, A710, Neoverse V1, N2)",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-v1", "mattr": ["-sve", "-sha3"]},
    features=("asimd", "asimddp", "i8mm"),
)
