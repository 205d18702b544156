"""Choosing kernels by measurement: every candidate of every distinct contraction is run, here or on a board.

A candidate is a kernel family and a register tile. All of them are compiled into one module, each with a kernel that
stores its integers. They run on random codes of the layer's own formats and with its own weights; those whose integers
differ from the NumPy reference are never chosen.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lqcompile import cpu, layout
from lqcompile.codegen import compile_driver, link
from lqcompile.errors import BuildError, TargetError
from lqcompile.graph.plan import Plan, Value
from lqcompile.graph.specs import LowBitWeights, Quantizer, UniformQuantizer
from lqcompile.kernels import Job, Kernels, Steps
from lqcompile.lowering.choose import Candidate, Choice, serving
from lqcompile.lowering.driver import lower_program
from lqcompile.lowering.layers import Layer, layer_tiles, lower_layer
from lqcompile.lowering.lower import KINDS, contraction_layers
from lqcompile.lowering.outputs import describe, describe_sums, make_format
from lqcompile.lowering.program import Program, Step, SumsKernel, Tensor
from lqcompile.reference import execute_region
from lqcompile.runtime import integers
from lqcompile.target import Target, expand

ROUNDS = 15
"""Readings of each candidate; the median counts."""

SEED = 0
"""Of the random codes: the same in every build."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One candidate of one contraction, lowered: `step` runs it and `sums` stores its integers (exact ones only)."""

    layer: Layer
    candidate: Candidate
    step: Step
    sums: SumsKernel | None


class Machine(Protocol):
    """Where candidates are run."""

    name: str
    """For people."""

    def missing(self, target: Target) -> list[str]:
        """What it lacks of a target without variants: its architecture, or CPU features; empty if it can run."""

    def open(self, job: Job) -> Steps:
        """Load compiled candidates."""


class ThisMachine:
    """Runs candidates in this process."""

    name = "this machine"

    def missing(self, target: Target) -> list[str]:
        """What this machine lacks of a target."""
        return missing_features(target, cpu.machine(), cpu.system(), cpu.cpu_features())

    def open(self, job: Job) -> Steps:
        """Load compiled candidates."""
        return Kernels(job)


HERE = ThisMachine()


def missing_features(target: Target, machine: str, system: str, features: Iterable[str]) -> list[str]:
    """What a machine lacks of a target without variants: its architecture, or CPU features; empty if it can run."""
    if (machine, system) != (target.machine, target.system):
        return [f"{target.machine} on {target.system}"]
    return sorted(cpu.normalise(target.features, target.machine) - cpu.normalise(features, machine))


def measurable(target: Target, machine: Machine = HERE) -> list[Target]:
    """The variants of a target that a machine can run.

    Raises:
        TargetError: it can run none of them.
    """
    variants = expand(target)
    found = [variant for variant in variants if not machine.missing(variant)]
    if not found:
        lacks = ", ".join(machine.missing(variants[0]))
        raise TargetError(
            f"target {target.name!r}: found {machine.name} to lack {lacks}, expected one that can run it because of "
            "--select measure; build on such a machine, with --rpc to one, or with --select table"
        )
    return found


def select_kernels(
    plan: Plan, target: Target, progress: Progress | None = None, machine: Machine = HERE
) -> dict[str, Choice]:
    """Times the candidates of every distinct contraction on a machine, on one thread.

    Args:
        plan: of the network.
        target: without variants, one that the machine can run.
        progress: called with what is being done and the share that is done, 0 to 1.
        machine: to measure on.

    Returns:
        The fastest equal candidate by region name; regions with one candidate are left to the cost table.

    Raises:
        BuildError: no candidate of a contraction gives the integers of the reference.
    """
    tell = progress or (lambda _text, _share: None)
    tell("finding the distinct contractions", 0.0)
    groups: dict[tuple[Any, ...], list[Layer]] = {}
    for layer in contraction_layers(plan, target).values():
        groups.setdefault(_signature(layer, target), []).append(layer)
    trials = [_trials(plan, layers[0], target, f"c{index}") for index, layers in enumerate(groups.values())]
    contested = [(group, layers) for group, layers in zip(trials, groups.values(), strict=True) if len(group) > 1]
    if not contested:
        return {}
    tell(f"compiling {sum(len(group) for group, _ in contested)} candidate kernels", 0.1)
    bench = _Bench(plan, [trial for group, _ in contested for trial in group], target, machine)
    choices: dict[str, Choice] = {}
    for index, (group, layers) in enumerate(contested):
        tell(f"timing {layers[0].region.name}", 0.6 + 0.4 * index / len(contested))
        choice = _fastest(layers[0].region.name, bench.equal(group), bench.times(group))
        choices |= {layer.region.name: choice for layer in layers}
    return choices


def _signature(layer: Layer, target: Target) -> tuple[Any, ...]:
    """What the time of a contraction depends on: two layers with the same one share a measurement."""
    operation, weights, quantizer = layer.operation, layer.operation.weights, layer.quantizer
    form: tuple[Any, ...] = (type(weights), weights.bits, weights.shape)
    if isinstance(weights, LowBitWeights):
        form += (weights.integer_basis, bool(weights.offset.any()))
    stores = tuple(
        (tensor.form, _coding(output.value.quantizer), tuple(type(stage) for stage in output.stages))
        for output, tensor in layer.stores
    )
    return (
        serving(operation, quantizer, target.name),
        form,
        (operation.geometry, operation.in_shape, operation.out_shape),
        (layer.source.form, _coding(quantizer)),
        tuple(type(stage) for stage in layer.stages),
        (stores, tuple(tensor.form for tensor in layer.residuals)),
    )


def _coding(quantizer: Quantizer | UniformQuantizer | None) -> tuple[Any, ...]:
    if isinstance(quantizer, Quantizer):
        return (quantizer.bits, quantizer.integer_basis, bool(quantizer.offset))
    return () if quantizer is None else (quantizer.dtype,)


def _trials(plan: Plan, layer: Layer, target: Target, name: str) -> list[Trial]:
    """Every family that serves a contraction, each with some register tiles, lowered."""
    schedule = importlib.import_module(f"lqcompile.schedules.{target.schedule}")
    found = []
    for family in serving(layer.operation, layer.quantizer, target.name):
        variant = _with_family(plan, layer, family, name)
        for tile in dict.fromkeys(layer_tiles(variant, target, schedule)):
            prefix = f"{name}_{family}_{tile.pixels}x{tile.blocks}"
            stores = tuple(
                (output, replace(tensor, key=f"{prefix}_{index}"))
                for index, (output, tensor) in enumerate(variant.stores)
            )
            trial = replace(variant, tile=tile, stores=stores)
            step, sums = lower_layer(trial, target, schedule, prefix)
            found.append(Trial(layer=trial, candidate=Candidate(family=family, tile=tile), step=step, sums=sums))
    return found


def _with_family(plan: Plan, layer: Layer, family: str, name: str) -> Layer:
    """The layer with another family, reading the format that it needs."""
    source = replace(layer.source, key=f"{name}_{KINDS[family]}")
    if KINDS[family] != KINDS[layer.family]:
        value = plan.values[str(source.value)]
        form = make_format(value, KINDS[family], layer.operation.geometry.pads)
        source = Tensor(key=source.key, dtype=form.dtype, size=form.size, value=value.name, form=form)
    residuals = tuple(replace(tensor, key=f"{name}_residual{index}") for index, tensor in enumerate(layer.residuals))
    return replace(layer, family=family, source=source, residuals=residuals)


class _Bench:
    """Candidates compiled into one module, loaded on a machine."""

    def __init__(self, plan: Plan, trials: Sequence[Trial], target: Target, machine: Machine) -> None:
        self.plan = plan
        steps: list[Step] = []
        self.place: dict[str, int] = {}
        for trial in trials:
            for step in (trial.step, *([trial.sums.step] if trial.sums else [])):
                self.place[step.name] = len(steps)
                steps.append(step)
        inputs = {tensor.key: tensor for trial in trials for tensor in (trial.layer.source, *trial.layer.residuals)}
        outputs = {
            tensor.key: tensor for step in steps for tensor in step.outputs if not tensor.key.endswith(".counts")
        }
        program = Program(
            inputs=tuple(inputs.values()),
            outputs=tuple(outputs.values()),
            steps=tuple(steps),
            sums=(),
            choices={},
        )
        _, driver = lower_program(program)
        ports = inputs | outputs
        self.ports = {key: index for index, key in enumerate(ports)}
        self.values = _samples(plan, trials)
        contents = {}
        for key, tensor in inputs.items():
            value = plan.values[str(tensor.value)]
            contents[self.ports[key]] = layout.encode(describe(tensor, value, 0), self.values[value.name][0])
        job = Job(
            library=link(compile_driver(driver, target), target.system),
            ports=tuple((tensor.dtype, tensor.size) for tensor in ports.values()),
            contents=contents,
            arena_bytes=driver.arena_bytes,
            parameters=np.frombuffer(driver.parameters, np.uint8),
        )
        self.steps = machine.open(job)

    def times(self, trials: Sequence[Trial]) -> dict[Candidate, float]:
        """Median microseconds of each candidate, timed interleaved."""
        seconds = self.steps.times([self.place[trial.step.name] for trial in trials], ROUNDS)
        return {
            trial.candidate: 1e6 * statistics.median(readings) for trial, readings in zip(trials, seconds, strict=True)
        }

    def equal(self, trials: Sequence[Trial]) -> set[Candidate]:
        """The candidates whose integers are those of the reference; all of them where a layer computes in float32."""
        expected, _ = execute_region(self.plan, trials[0].layer.region, self.values)
        found = set()
        for trial in trials:
            if trial.sums is None:
                found.add(trial.candidate)
                continue
            step = trial.sums.step
            stored = self.steps.run(self.place[step.name], self.ports[step.outputs[-1].key])
            if np.array_equal(integers(stored.view(np.int32), describe_sums(trial.sums)), np.asarray(expected)[0]):
                found.add(trial.candidate)
        return found


def _samples(plan: Plan, trials: Sequence[Trial]) -> dict[str, npt.NDArray[Any]]:
    """One random sample of every value that a candidate reads, in its logical encoding."""
    rng = np.random.default_rng(SEED)
    values: dict[str, npt.NDArray[Any]] = {}
    for trial in trials:
        for name in (*trial.layer.region.inputs, *trial.layer.region.residuals):
            if name not in values:
                values[name] = _sample(plan.values[name], rng)
    return values


def _sample(value: Value, rng: np.random.Generator) -> npt.NDArray[Any]:
    shape = (1, *value.shape)
    if isinstance(value.quantizer, Quantizer):
        index = rng.integers(0, len(value.quantizer.levels), shape)
        return value.quantizer.levels[index] if value.decoded else index.astype(np.uint8)
    if isinstance(value.quantizer, UniformQuantizer) and not value.decoded:
        limits = np.iinfo(value.quantizer.dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(value.quantizer.dtype)
    return rng.normal(size=shape).astype(np.float32)


def _fastest(name: str, equal: set[Candidate], times: Mapping[Candidate, float]) -> Choice:
    """The fastest of the equal candidates, with the reason in words."""
    measured = tuple(sorted(times.items(), key=lambda entry: entry[1]))
    usable = [(candidate, time) for candidate, time in measured if candidate in equal]
    if not usable:
        raise BuildError(
            f"node {name!r}: found no candidate kernel whose integers equal the reference; build with --select table "
            "and report this as a bug"
        )
    best, time = usable[0]
    reason = f"measured: {time:.3g} us, the fastest of {len(usable)} tiles"
    other = next(((candidate, slower) for candidate, slower in usable if candidate.family != best.family), None)
    if other is not None:
        reason = f"measured: {other[1] / time:.1f} x {other[0].family} ({time:.3g} us against {other[1]:.3g} us)"
    wrong = sorted({candidate.family for candidate in times if candidate not in equal})
    if wrong:
        reason += f"; wrong integers from {', '.join(wrong)}: report this as a bug"
    return Choice(family=best.family, reason=reason, tile=best.tile, measured=measured)
