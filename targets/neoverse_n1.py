"""Neoverse N1: AWS Graviton 2, Ampere Altra."""

from lqcompile.target import Target

TARGET = Target(
    name="neoverse-n1",
    description="Neoverse N1 (AWS Graviton2, Ampere Altra)",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"},
    features=("asimd", "asimddp"),
    # Modelled, not measured: the best loops written by hand on Neoverse N1, by llvm-mca (docs/performance.md).
    peaks={"FloatLanes": 8.0, "Dot8": 31.9, "Popcount": 85.2},
)
