"""Raspberry Pi 5 and 500: four Cortex-A76."""

from lqcompile.target import Target

TARGET = Target(
    name="raspberry-pi-5",
    description="Raspberry Pi 5 and 500 (Cortex-A76, SDOT)",
    machine="aarch64",
    schedule="arm_cpu",
    llvm={"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76"},
    features=("asimd", "asimddp"),
    # Modelled, not measured: the best loops written by hand, on its sister Neoverse N1 (docs/performance.md).
    peaks={"FloatLanes": 8.0, "Dot8": 31.9, "Popcount": 85.2},
)
