"""Raspberry Pi 4 and 400: four Cortex-A72."""

from lqcompile.target import Target

TARGET = Target(
    name="raspberry-pi-4",
    description="Raspberry Pi 4 and 400, 64-bit system (Cortex-A72)",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
    features=("asimd",),
    # Modelled, not measured: the best loops written by hand on Cortex-A72, by llvm-mca (docs/performance.md).
    peaks={"FloatLanes": 4.0, "Dot8": 8.0, "Popcount": 85.2},
)
