"""What a target is, and finding one by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lqcompile.errors import TargetError

GPU = "cuda"
"""Machine of targets and artifacts for NVIDIA GPUs."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A machine class that lqcompile compiles for.

    Args:
        name: what ``--target`` takes; the file in targets/ has the same name with ``_`` for ``-``.
        description: one line for people.
        machine: ``platform.machine()`` of the device, such as ``x86_64``; ``cuda`` for NVIDIA GPUs.
        schedule: module of schedules/ that holds the kernels.
        system: operating system of the device, as `lqcompile.cpu.system` names it.
        llvm: TVM target attributes beside ``kind``.
        features: CPU features (as Linux names them) that the code uses, or the architecture of GPU code (``sm_80``);
            all must be there at load.
        vector_bits: width of a vector register.
        variants: names of targets instead of code of its own; a load picks the last one that the CPU can run.
        peaks: multiply-accumulates per cycle and core that nothing can exceed, by the class of the schedule that has
            the inner loop; of one plane pair for loops on bit planes. Empty where the target stands for unlike cores.
        multiprocessors: of a GPU: what launches of few samples should keep busy; 0 for CPUs.
        samples: that kernels run together when they are measured; 1 on CPUs, which run one sample after another.
    """

    name: str
    description: str
    machine: str
    schedule: str
    system: str = "linux"
    llvm: dict[str, object] = field(default_factory=dict)
    features: tuple[str, ...] = ()
    vector_bits: int = 128
    variants: tuple[str, ...] = ()
    peaks: Mapping[str, float] = field(default_factory=dict)
    multiprocessors: int = 0
    samples: int = 1

    @property
    def on_gpu(self) -> bool:
        """Whether it is a GPU, where samples run together."""
        return self.machine == GPU

    @property
    def lanes(self) -> int:
        """32-bit lanes of a vector register."""
        return self.vector_bits // 32


def names() -> list[str]:
    """Names of all targets, sorted."""
    package = importlib.import_module("lqcompile.targets")
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(package.__path__))


def find(name: str) -> Target:
    """The target called `name`; ``-`` and ``_`` are the same.

    Raises:
        TargetError: there is none.
    """
    wanted = name.replace("_", "-")
    if wanted not in names():
        raise TargetError(f"target {name!r}: unknown; known targets: {', '.join(names())}")
    module = importlib.import_module(f"lqcompile.targets.{wanted.replace('-', '_')}")
    target: Target = module.TARGET
    return target


def expand(target: Target) -> list[Target]:
    """The targets that code is generated for: the variants, for as many samples, or the target itself."""
    return [replace(find(name), samples=target.samples) for name in target.variants] or [target]


def with_samples(target: Target, samples: int) -> Target:
    """The target with another number of samples that kernels are measured with.

    Raises:
        TargetError: it runs one sample after another, or the number is none.
    """
    if not target.on_gpu:
        raise TargetError(
            f"target {target.name!r}: found a batch of {samples}, expected none, for it runs one sample after another; "
            "leave --batch out"
        )
    if samples < 1:
        raise TargetError(f"target {target.name!r}: found a batch of {samples}, expected at least one sample")
    return replace(target, samples=samples)
