"""From a program to launches: the kernels of a network, what they get, and memory for a batch of samples.

The arena holds every tensor as many times as there are samples in a batch, one sample after another: places are those
of one sample times the size of the batch. There is no host code: launches are data of the manifest, and
`lqcompile.cuda.model` passes them to the driver.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tvm_ffi

from lqcompile.cuda.nvrtc import version
from lqcompile.cuda.source import lower_kernels
from lqcompile.errors import UnsupportedError
from lqcompile.lowering.driver import Driver, Parameters, region_spans
from lqcompile.lowering.memory import ALIGNMENT, Lifetime, plan_arena
from lqcompile.lowering.program import Program, Step, Tensor
from lqcompile.schedules.cuda_warp import LANES

LARGEST = 1 << 30
"""Elements, and threads, that kernels can number: sums of two such numbers are below 2^31."""

Entry = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Launches(Driver):
    """A driver without host code; `module` holds kernels.

    Args:
        steps: for each step, a manifest entry: ``kernel``, ``arguments`` as (where, place), ``rows``, ``tile``,
            ``columns`` and ``warps`` (`lqcompile.schedules.cuda_warp.launch`); ``fewer``, where there is a kernel for
            few samples: its ``kernel``, ``tile``, ``columns`` and ``warps``, and the most ``samples`` that it is for.
        sums: likewise for each kernel that stores integers.
        largest: elements of the largest tensor of one sample, or threads of the largest launch for one.
    """

    steps: tuple[Entry, ...]
    sums: tuple[Entry, ...]
    largest: int

    @property
    def entries(self) -> dict[str, Any]:
        """For `lqcompile.cuda.engine`, beside what every variant has."""
        launches = {"steps": list(self.steps), "sums": list(self.sums), "largest": self.largest}
        return {"launches": {**launches, "compiler": f"NVRTC {version()}"}}

    @property
    def suffix(self) -> str:
        """A cubin, or PTX."""
        return "cuda"


def make_launches(program: Program) -> Launches:
    """Places tensors and parameters, and says what each kernel gets.

    Raises:
        UnsupportedError: a tensor has more elements than kernels can number.
    """
    parameters = Parameters()
    ports = {tensor.key: ("input", index) for index, tensor in enumerate(program.inputs)}
    ports |= {tensor.key: ("output", index) for index, tensor in enumerate(program.outputs)}
    tensors = {tensor.key: tensor for step in program.steps for tensor in step.outputs if tensor.key not in ports}
    _check_sizes(program.steps)
    offsets, arena_bytes = plan_arena(_lifetimes(program.steps, tensors))
    names = _Names()
    places: dict[str, tuple[str, int]] = ports | {key: ("arena", offset) for key, offset in offsets.items()}
    steps = tuple(_entry(step, names, parameters, places) for step in program.steps)
    sums = tuple(
        _entry(kernel.step, names, parameters, {**places, kernel.step.outputs[-1].key: ("sums", 0)})
        for kernel in program.sums
    )
    return Launches(
        module=lower_kernels(names.functions),
        parameters=parameters.tobytes(),
        arena_bytes=max(arena_bytes, ALIGNMENT),
        offsets=offsets,
        regions=region_spans(program),
        steps=steps,
        sums=sums,
        largest=max(_sizes(program, steps)),
    )


class _Names:
    """Names of kernels; equal ones share the first one's."""

    def __init__(self) -> None:
        self.functions: dict[str, Any] = {}
        self.first: dict[Any, str] = {}

    def name(self, function: Any, name: str) -> str:
        found = self.first.setdefault(tvm_ffi.StructuralKey(function), name)
        self.functions.setdefault(found, function)
        return found


def _entry(step: Step, names: _Names, parameters: Parameters, places: Mapping[str, tuple[str, int]]) -> Entry:
    arguments: list[tuple[str, int]] = [places[key] for key in step.inputs]
    arguments += [("params", parameters.add(array)) for array in step.constants]
    arguments += [places[tensor.key] for tensor in step.outputs]
    entry = {"arguments": [list(argument) for argument in arguments], "rows": int(step.function.attrs["rows"])}
    entry |= _sized(step.function, names, step.name)
    if step.fewer:
        fewer = _sized(step.fewer.function, names, f"{step.name}_fewer")
        entry["fewer"] = {**fewer, "samples": step.fewer.samples}
    return entry


def _sized(function: Any, names: _Names, name: str) -> Entry:
    """A kernel and the sizes of its grid."""
    sizes = {key: int(function.attrs[key]) for key in ("tile", "columns", "warps")}
    return {"kernel": names.name(function, name), **sizes}


def _sizes(program: Program, entries: Sequence[Entry]) -> Iterator[int]:
    """What kernels number: elements of tensors, and threads of launches, for one sample."""
    yield from (tensor.size for tensor in program.inputs)
    yield from (tensor.size for step in program.steps for tensor in step.outputs)
    for entry in entries:
        for sized in (entry, {**entry, **entry.get("fewer", {})}):
            yield -(-sized["rows"] // sized["tile"]) * sized["columns"] * sized["warps"] * LANES


def _check_sizes(steps: Sequence[Step]) -> None:
    for step in steps:
        for tensor in step.outputs:
            if tensor.size > LARGEST:
                raise UnsupportedError(
                    f"node {step.region!r}: found a tensor of {tensor.size} elements, expected at most "
                    f"{LARGEST} on a GPU; make the image smaller"
                )


def _lifetimes(steps: Sequence[Step], tensors: Mapping[str, Tensor]) -> list[Lifetime]:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for key in (*(tensor.key for tensor in step.outputs), *step.inputs):
            if key in tensors:
                first.setdefault(key, index)
                last[key] = index
    sizes = {key: tensor.size * np.dtype(tensor.dtype).itemsize for key, tensor in tensors.items()}
    return [Lifetime(key=key, size_bytes=size, first=first[key], last=last[key]) for key, size in sizes.items()]
