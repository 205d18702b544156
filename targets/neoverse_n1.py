"""Neoverse N1: AWS Graviton 2, Ampere Altra."""

from lqcompile.target import Target

TARGET = Target(
    name="neoverse-n1",
    description="Neoverse N1 (AWS Graviton2, Ampere Altra)",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"},
    features=("asimd", "asimddp"),
)
