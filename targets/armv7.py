"""32-bit ARM with NEON: Raspberry Pi 2, and 32-bit systems on Raspberry Pi 3 and 4."""

from lqcompile.target import Target

TARGET = Target(
    name="armv7",
    description="32-bit ARM with NEON (Raspberry Pi 2; 32-bit systems on Raspberry Pi 3 and 4)",
    machine="armv7l",
    schedule="armv7",
    llvm={"mtriple": "armv7l-linux-gnueabihf", "mcpu": "cortex-a7", "mfloat-abi": "hard", "mattr": ["+neon", "+vfp4"]},
    features=("neon", "vfpv4", "idiva"),
)
