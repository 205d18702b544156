"""Where a record holds: a record of one processor, TVM or version of the kernels never applies to another silently."""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from lqcompile import cpu
from lqcompile.errors import TuningError
from lqcompile.schedules.space import KERNELS
from lqcompile.target import Target, expand, find, names
from lqcompile.wording import counted

MODELS = {"cuda": "lqcompile.cuda.capability"}
"""Modules with a function `gpu_model`, for machines that are no CPUs."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """Where a time was measured, and of which code.

    Args:
        target: name of a target without variants.
        cpu: model of the processor, as `lqcompile.cpu.cpu_model` gives it; of a GPU its name and compute capability.
        features: its features in LLVM's spelling, sorted, as far as any target names them; none of a GPU.
        samples: that ran together; 1 on CPUs.
        tvm: version of apache-tvm.
        kernels: version of the kernels, `lqcompile.schedules.space.KERNELS`.
    """

    target: str
    cpu: str
    features: tuple[str, ...]
    samples: int
    tvm: str
    kernels: int

    def to_json(self) -> dict[str, Any]:
        """The key with stable names."""
        return {**asdict(self), "features": list(self.features)}

    def difference(self, other: Key) -> str | None:
        """Why a record with this key does not hold for `other`, in words; None if it does."""
        if self.target != other.target:
            return f"for target {self.target}, not {other.target}"
        if self.cpu != other.cpu:
            return f"measured on {self.cpu}, not {other.cpu}"
        if self.features != other.features:
            missing = sorted(set(self.features) ^ set(other.features))
            return f"measured on {self.cpu} with other CPU features ({', '.join(missing)})"
        if self.samples != other.samples:
            return f"measured with {counted(self.samples, 'sample')} at a time, not {other.samples}"
        if self.tvm != other.tvm:
            return f"made with TVM {self.tvm}, not {other.tvm}"
        if self.kernels != other.kernels:
            return f"of version {self.kernels} of the kernels, not {other.kernels}"
        return None


def make_key(target: Target, model: str, features: Iterable[str]) -> Key:
    """The key of a machine for what this version of lqcompile makes.

    Args:
        target: without variants.
        model: of the processor, as `lqcompile.cpu.cpu_model` gives it.
        features: of the processor, as Linux or LLVM names them.
    """
    known = set[str]()
    for name in names():
        for other in expand(find(name)):
            if other.machine == target.machine:
                known |= cpu.normalise(other.features, other.machine)
    return Key(
        target=target.name,
        cpu=model,
        features=tuple(sorted(known & cpu.normalise(features, target.machine))),
        samples=target.samples,
        tvm=importlib.metadata.version("apache-tvm"),
        kernels=KERNELS,
    )


def key_here(target: Target) -> Key:
    """The key of this machine, or of its GPU."""
    if target.machine in MODELS:
        return make_key(target, importlib.import_module(MODELS[target.machine]).gpu_model(), ())
    return make_key(target, cpu.cpu_model(), cpu.cpu_features())


def read_key(value: Any, source: str) -> Key:
    """The key in a file of records.

    Raises:
        TuningError: it is none.
    """
    kinds = {field.name: {"str": str, "int": int}.get(str(field.type), list) for field in fields(Key)}
    if not isinstance(value, dict) or {name: type(item) for name, item in value.items()} != kinds:
        raise TuningError(f"records '{source}': found no key of a machine in an entry, expected {', '.join(kinds)}")
    return Key(**{**value, "features": tuple(str(name) for name in value["features"])})
