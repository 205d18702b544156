"""Choosing kernels by measurement: every candidate of every distinct contraction is run, here or on a board.

A candidate is a kernel family and a register tile, compiled with a kernel that stores its integers. For CPUs all of
them are in one module. For GPUs, whose compiler takes seconds for a kernel, there is a module for each contraction:
several are compiled at the same time, and the first are timed before the last are there. Candidates run on random
codes of the layer's own formats and with its own weights; those whose integers differ from the NumPy reference are
never chosen.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from lqcompile import cpu
from lqcompile.errors import BuildError, TargetError
from lqcompile.graph.plan import Plan
from lqcompile.graph.specs import LowBitWeights, Quantizer, UniformQuantizer
from lqcompile.kernels import Job, Steps
from lqcompile.lowering.choose import Candidate, Choice, serving
from lqcompile.lowering.layers import Layer, layer_tiles
from lqcompile.lowering.lower import contraction_layers
from lqcompile.target import Target, expand
from lqcompile.trials import (
    Compiled,
    Trial,
    Values,
    compile_trials,
    expected_integers,
    is_equal,
    make_trial,
    sample_values,
    with_family,
)
from lqcompile.wording import counted

CHECKS = {"cuda": "lqcompile.cuda.capability"}
"""Modules with a function `missing`, for machines that are no CPUs."""

ROUNDS = 15
"""Readings of each candidate; the median counts."""

Progress = Callable[[str, float], None]


class Machine(Protocol):
    """Where candidates are run."""

    name: str
    """For people."""

    def missing(self, target: Target) -> list[str]:
        """What it lacks of a target without variants: its architecture, or CPU features; empty if it can run."""

    def open(self, job: Job) -> Steps:
        """Load compiled candidates."""


class ThisMachine:
    """Runs candidates in this process, on the CPU or on the GPU that they are for."""

    name = "this machine"

    def missing(self, target: Target) -> list[str]:
        """What this machine lacks of a target.

        Raises:
            DeviceError: it has no GPU, and the target needs one.
        """
        if target.machine in CHECKS:
            found: list[str] = importlib.import_module(CHECKS[target.machine]).missing(target)
            return found
        return missing_features(target, cpu.machine(), cpu.system(), cpu.cpu_features())

    def open(self, job: Job) -> Steps:
        """Load compiled candidates."""
        return job.load()


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
        remote = "" if target.machine in CHECKS else ", with --rpc to one"
        raise TargetError(
            f"target {target.name!r}: found {machine.name} to lack {lacks}, expected one that can run it because of "
            f"--select measure; build on such a machine{remote}, or with --select table"
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
    modules = [[entry] for entry in contested] if target.on_gpu else [contested]
    choices: dict[str, Choice] = {}
    for module, work in _compiled(plan, modules, target):
        opened = _Opened(plan, work, machine)
        for group, layers in module:
            name = layers[0].region.name
            tell(f"timing {name}", 0.1 + 0.9 * len(choices) / sum(len(layers) for _, layers in contested))
            choice = _fastest(name, opened.equal(group), opened.times(group))
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
        variant = with_family(plan, layer, family, name)
        for index, tile in enumerate(dict.fromkeys(layer_tiles(variant, target, schedule))):
            candidate = Candidate(family=family, tile=tile)
            found.append(make_trial(variant, candidate, target, f"{name}_{family}_{index}"))
    return found


_Group = tuple[list[Trial], list[Layer]]
"""Candidates of a contraction, and the layers that are alike."""


@dataclass(frozen=True, kw_only=True)
class _Module:
    """Candidates in one module.

    Args:
        values: what they read.
        compiled: them.
        place: number of each in `compiled`, by its id.
    """

    values: Values
    compiled: Compiled
    place: Mapping[int, int]


def _compiled(
    plan: Plan, modules: Sequence[Sequence[_Group]], target: Target
) -> Iterator[tuple[Sequence[_Group], _Module]]:
    """Each module with its code, in order; compilers work outside of Python's lock, on as many as there are cores."""

    def compile_module(module: Sequence[_Group]) -> _Module:
        trials = [trial for group, _ in module for trial in group]
        values = sample_values(plan, [trial.layer.region for trial in trials])
        compiled = compile_trials(plan, trials, target, values)
        return _Module(values=values, compiled=compiled, place={id(trial): index for index, trial in enumerate(trials)})

    with ThreadPoolExecutor(max_workers=cpu.logical_cores()) as pool:
        futures = [pool.submit(compile_module, module) for module in modules]
        try:
            for index, module in enumerate(modules):
                yield module, futures[index].result()
        finally:
            pool.shutdown(cancel_futures=True)


class _Opened:
    """A module of candidates, loaded on a machine."""

    def __init__(self, plan: Plan, module: _Module, machine: Machine) -> None:
        self.plan = plan
        self.values, self.compiled, self.place = module.values, module.compiled, module.place
        self.steps = machine.open(module.compiled.job)

    def times(self, trials: Sequence[Trial]) -> dict[Candidate, float]:
        """Median microseconds of each candidate, timed interleaved."""
        seconds = self.steps.times([self.compiled.steps[self.place[id(trial)]] for trial in trials], ROUNDS)
        return {
            trial.candidate: 1e6 * statistics.median(readings) for trial, readings in zip(trials, seconds, strict=True)
        }

    def equal(self, trials: Sequence[Trial]) -> set[Candidate]:
        """The candidates whose integers are those of the reference; all of them where a layer computes in float32."""
        expected = expected_integers(self.plan, trials[0].layer.region, self.values)
        return {
            trial.candidate
            for trial in trials
            if is_equal(self.steps, self.compiled.checks[self.place[id(trial)]], expected)
        }


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
    reason = f"measured: {time:.3g} us, the fastest of {counted(len(usable), 'tile')}"
    other = next(((candidate, slower) for candidate, slower in usable if candidate.family != best.family), None)
    if other is not None:
        reason = f"measured: {other[1] / time:.1f} x {other[0].family} ({time:.3g} us against {other[1]:.3g} us)"
    wrong = sorted({candidate.family for candidate in times if candidate not in equal})
    if wrong:
        reason += f"; wrong integers from {', '.join(wrong)}: report this as a bug"
    return Choice(family=best.family, reason=reason, tile=best.tile, measured=measured)
