"""Any NVIDIA GPU from the Ampere generation on: code that the driver translates when it is loaded."""

from lqcompile.target import Target

TARGET = Target(
    name="cuda-ptx",
    description="NVIDIA GPUs from compute capability 8.0 on; the driver compiles at the first load",
    machine="cuda",
    schedule="cuda",
    llvm={"arch": "compute_80"},
    features=("compute_80",),
    vector_bits=1024,
    multiprocessors=132,
    samples=32,
)
