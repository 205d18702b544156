"""Apple M1 and later on macOS."""

from lqcompile.target import Target

TARGET = Target(
    name="apple-m1",
    description="Apple M1 and later, macOS 11 and later",
    machine="aarch64",
    schedule="arm_cpu",
    system="darwin",
    llvm={"mtriple": "arm64-apple-macos11", "mcpu": "apple-m1", "mattr": ["-sha3"]},
    features=("asimd", "asimddp"),
)
