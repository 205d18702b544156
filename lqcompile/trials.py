"""Candidate kernels of contractions, compiled outside of a network, with what it takes to check and to time them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile import layout
from lqcompile.codegen import compile_driver, link
from lqcompile.graph.plan import Plan, Region, Value
from lqcompile.graph.specs import Quantizer, UniformQuantizer
from lqcompile.kernels import Job, Steps
from lqcompile.lowering.choose import Candidate
from lqcompile.lowering.driver import lower_program
from lqcompile.lowering.layers import Layer, lower_layer
from lqcompile.lowering.lower import KINDS
from lqcompile.lowering.outputs import describe, describe_sums, make_format
from lqcompile.lowering.program import Program, Step, SumsKernel, Tensor
from lqcompile.reference import execute_region
from lqcompile.runtime import integers
from lqcompile.target import Target

BACKENDS = {"cuda": "lqcompile.cuda.trials"}
"""Modules with a function `make_job`, for machines that are no CPUs."""

SEED = 0
"""Of the random codes: the same in every run."""

Values = dict[str, npt.NDArray[Any]]
"""One sample of each value by name, in its logical encoding."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One candidate of one contraction, lowered: `step` runs it and `sums` stores its integers (exact ones only)."""

    layer: Layer
    candidate: Candidate
    step: Step
    sums: SumsKernel | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Check:
    """The kernel that stores the integers of a trial.

    Args:
        step: its number in the job.
        port: that it writes.
        entry: what it stores, as `lqcompile.runtime.integers` reads it.
    """

    step: int
    port: int
    entry: dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Compiled:
    """Trials in one library.

    Args:
        job: to be opened on a machine.
        steps: number of each trial's step.
        checks: of each trial, None where it computes in float32.
    """

    job: Job
    steps: tuple[int, ...]
    checks: tuple[Check | None, ...]


def with_family(plan: Plan, layer: Layer, family: str, name: str) -> Layer:
    """The layer with another family, reading the format that it needs from a tensor whose key starts with `name`."""
    source = replace(layer.source, key=f"{name}_{KINDS[family]}")
    if KINDS[family] != KINDS[layer.family]:
        value = plan.values[str(source.value)]
        form = make_format(value, KINDS[family], layer.operation.geometry.pads)
        source = Tensor(key=source.key, dtype=form.dtype, size=form.size, value=value.name, form=form)
    residuals = tuple(replace(tensor, key=f"{name}_residual{index}") for index, tensor in enumerate(layer.residuals))
    return replace(layer, family=family, source=source, residuals=residuals)


def make_trial(variant: Layer, candidate: Candidate, target: Target, prefix: str) -> Trial:
    """Lowers a candidate.

    Args:
        variant: the layer with the candidate's family (`with_family`).
        candidate: family and tile.
        target: without variants.
        prefix: of names; each trial of a job needs its own.
    """
    schedule = importlib.import_module(f"lqcompile.schedules.{target.schedule}")
    stores = tuple(
        (output, replace(tensor, key=f"{prefix}_{index}")) for index, (output, tensor) in enumerate(variant.stores)
    )
    layer = replace(variant, tile=candidate.tile, stores=stores)
    step, sums = lower_layer(layer, target, schedule, prefix)
    return Trial(layer=layer, candidate=candidate, step=step, sums=sums)


def sample_values(plan: Plan, regions: Sequence[Region]) -> Values:
    """One random sample of every value that regions read."""
    rng = np.random.default_rng(SEED)
    values: Values = {}
    for region in regions:
        for name in (*region.inputs, *region.residuals):
            if name not in values:
                values[name] = _sample(plan.values[name], rng)
    return values


def expected_integers(plan: Plan, region: Region, values: Values) -> npt.NDArray[Any] | None:
    """The integers of a contraction by the reference, for one sample; None where it computes in float32."""
    expected, _ = execute_region(plan, region, values)
    found: npt.NDArray[Any] | None = None if expected is None else np.asarray(expected)[0]
    return found


def compile_trials(
    plan: Plan, trials: Sequence[Trial], target: Target, values: Mapping[str, npt.NDArray[Any]]
) -> Compiled:
    """Compiles trials into one library.

    Args:
        plan: of the network.
        trials: to compile.
        target: without variants; so many of its samples run together where trials are timed.
        values: one sample of what they read.

    Raises:
        BuildError: TVM, the linker or the compiler of device code refuses it.
    """
    steps: list[Step] = []
    place: dict[str, int] = {}
    for trial in trials:
        for step in (trial.step, *([trial.sums.step] if trial.sums else [])):
            place[step.name] = len(steps)
            steps.append(step)
    inputs = {tensor.key: tensor for trial in trials for tensor in (trial.layer.source, *trial.layer.residuals)}
    outputs = {tensor.key: tensor for step in steps for tensor in step.outputs if not tensor.key.endswith(".counts")}
    program = Program(
        inputs=tuple(inputs.values()), outputs=tuple(outputs.values()), steps=tuple(steps), sums=(), choices={}
    )
    ports = inputs | outputs
    numbers = {key: index for index, key in enumerate(ports)}
    contents = {}
    for key, tensor in inputs.items():
        value = plan.values[str(tensor.value)]
        contents[numbers[key]] = layout.encode(describe(tensor, value, 0), values[value.name][0])
    if target.machine in BACKENDS:
        single = frozenset(place[trial.sums.step.name] for trial in trials if trial.sums is not None)
        job = importlib.import_module(BACKENDS[target.machine]).make_job(program, target, contents, single)
    else:
        job = _make_job(program, target, contents)
    checks = [
        Check(step=place[sums.step.name], port=numbers[sums.step.outputs[-1].key], entry=describe_sums(sums))
        if sums is not None
        else None
        for sums in (trial.sums for trial in trials)
    ]
    return Compiled(job=job, steps=tuple(place[trial.step.name] for trial in trials), checks=tuple(checks))


def _make_job(program: Program, target: Target, contents: Mapping[int, npt.NDArray[np.uint8]]) -> Job:
    _, driver = lower_program(program)
    return Job(
        library=link(compile_driver(driver, target), target),
        ports=tuple((tensor.dtype, tensor.size) for tensor in (*program.inputs, *program.outputs)),
        contents=contents,
        arena_bytes=driver.arena_bytes,
        parameters=np.frombuffer(driver.parameters, np.uint8),
    )


def is_equal(steps: Steps, check: Check | None, expected: npt.NDArray[Any] | None) -> bool:
    """Whether an opened trial gives the integers of the reference; a trial that computes in float32 passes."""
    if check is None or expected is None:
        return True
    stored = steps.run(check.step, check.port)
    return np.array_equal(integers(stored.view(np.int32), check.entry), expected)


def _sample(value: Value, rng: np.random.Generator) -> npt.NDArray[Any]:
    shape = (1, *value.shape)
    if isinstance(value.quantizer, Quantizer):
        index = rng.integers(0, len(value.quantizer.levels), shape)
        return value.quantizer.levels[index] if value.decoded else index.astype(np.uint8)
    if isinstance(value.quantizer, UniformQuantizer) and not value.decoded:
        limits = np.iinfo(value.quantizer.dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(value.quantizer.dtype)
    return rng.normal(size=shape).astype(np.float32)
