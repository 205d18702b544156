"""Neoverse V1: AWS Graviton 3. Kernels use NEON, not SVE."""

from lqcompile.target import Target

TARGET = Target(
    name="neoverse-v1",
    description="Neoverse V1 (AWS Graviton3, SMMLA)",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-v1", "mattr": ["-sve", "-sha3"]},
    features=("asimd", "asimddp", "i8mm"),
    # Modelled, not measured: the best loops written by hand on Neoverse V1, by llvm-mca (docs/performance.md).
    peaks={"FloatLanes": 15.9, "Dot8": 116.9, "Popcount": 170.4},
)
