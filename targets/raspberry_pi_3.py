"""Raspberry Pi 3 and Zero 2 W: four Cortex-A53."""

from lqcompile.target import Target

TARGET = Target(
    name="raspberry-pi-3",
    description="Raspberry Pi 3 and Zero 2 W, 64-bit system (Cortex-A53)",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a53"},
    features=("asimd",),
    # Modelled, not measured: the best loops written by hand on Cortex-A53, by llvm-mca (docs/performance.md).
    peaks={"FloatLanes": 4.0, "Dot8": 5.3, "Popcount": 42.7},
)
