"""Which GPUs run which code."""

from __future__ import annotations

import re
from collections.abc import Iterable

from lqcompile.cuda.driver import Gpu
from lqcompile.errors import DeviceError
from lqcompile.target import Target

NONE = "a machine without a usable GPU"
"""What `gpu_model` gives where there is none."""


def runs_here(architectures: Iterable[str]) -> bool:
    """Whether the first GPU of this machine runs code for all of the architectures; no GPU runs none."""
    try:
        gpu = Gpu()
    except DeviceError:
        return False
    return all(runs(architecture, gpu.capability) for architecture in architectures)


def missing(target: Target) -> list[str]:
    """What the first GPU of this machine lacks of a target without variants; empty if it runs its code.

    Raises:
        DeviceError: there is no GPU, or its driver is too old.
    """
    gpu = Gpu()
    lacking = [architecture for architecture in target.features if not runs(architecture, gpu.capability)]
    return [f"a GPU for {architecture} (it has {describe(gpu)})" for architecture in lacking]


def gpu_model() -> str:
    """What tells the first GPU of this machine from others, whatever the driver."""
    try:
        return describe(Gpu())
    except DeviceError:
        return NONE


def describe(gpu: Gpu) -> str:
    """Such as ``NVIDIA H200 (9.0)``."""
    return f"{gpu.name} ({gpu.capability[0]}.{gpu.capability[1]})"


def runs(architecture: str, capability: tuple[int, int]) -> bool:
    """Whether a GPU runs code for an architecture (CUDA C++ Programming Guide, "Application Compatibility").

    Machine code runs on GPUs of the same major version and no lower minor version, that for ``a`` (architecture
    specific) on its own only; PTX runs on all that follow.

    Example:
        >>> [runs("sm_80", (8, 6)), runs("sm_80", (9, 0)), runs("compute_80", (9, 0)), runs("sm_90a", (9, 0))]
        [True, False, True, True]
    """
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)(a?)", architecture)
    if found is None:
        return False
    built = (int(found[2]), int(found[3]))
    if found[4]:
        return built == capability
    if found[1] == "compute":
        return built <= capability
    return built[0] == capability[0] and built[1] <= capability[1]
