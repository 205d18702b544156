"""Tuning without kernels: a small network, candidates whose time is a formula, and machines that run nothing."""

from __future__ import annotations

import functools
import itertools
import os
import pickle
import signal
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from plans import PlanBuilder, random_low_bit, random_quantizer

from lqcompile.errors import TuningError
from lqcompile.graph.plan import Geometry, Plan
from lqcompile.lowering.choose import Candidate
from lqcompile.records.key import make_key
from lqcompile.target import find
from lqcompile.tuning import tune as tuning
from lqcompile.tuning.budget import Budget
from lqcompile.tuning.outcome import TuneResult
from lqcompile.tuning.task import Task, make_tasks
from lqcompile.tuning.work import WRONG, Compare, Measure, Reading

TARGET = find("x86-avx2")
"""Its kernels are not run here."""

KEY = make_key(TARGET, "Test CPU", TARGET.features)
AROUND = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))

Clock = Callable[[Candidate], float]
"""Seconds that a candidate takes; raises `TuningError` for one that fails."""


def network(seed: int = 0) -> Plan:
    """Three layers on integer bases: two of one shape, and a smaller one."""
    rng = np.random.default_rng(seed)
    builder = PlanBuilder(rng, (32, 9, 10))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    for outputs, inputs in ((32, 32), (32, 32), (64, 32)):
        made = random_quantizer(rng, 2, integer=True)
        weights = random_low_bit(rng, (outputs, inputs, 3, 3), 1, integer=True)
        (codes,) = builder.contract(codes, weights, AROUND, (), ((made, False, ()),))
    return builder.finish(*builder.contract(codes, random_low_bit(rng, (5, 64, 1, 1), 2, integer=True), Geometry()))


@functools.cache
def tasks(seed: int = 0) -> tuple[Task, ...]:
    """The tasks of `network`."""
    return tuple(make_tasks(network(seed), TARGET, KEY, lambda _doing, _share: None))


def tasks_by_name() -> dict[str, Task]:
    """The same by name."""
    return {task.name: task for task in tasks()}


def points(task: Task) -> list[Candidate]:
    """All candidates of a task."""
    return [
        Candidate(family=family, tile=space.choose(index, dict(zip(space.knobs, values, strict=True))))
        for family, space in task.spaces.items()
        for index in range(len(space.tiles))
        for values in itertools.product(*space.knobs.values())
    ]


def formula(candidate: Candidate) -> float:
    """Least for a look-up of 3 outputs of one vector."""
    assert candidate.tile is not None
    slow = {"lut": 1.0, "dot8": 1.5, "popcount": 2.0}[candidate.family]
    return 1e-6 * slow * (1 + abs(candidate.tile.pixels - 3) + 2 * abs(candidate.tile.blocks - 1))


def wrong_narrow(candidate: Candidate) -> float:
    """As `formula`, but what is fastest is wrong: look-ups of one vector."""
    assert candidate.tile is not None
    if candidate.family == "lut" and candidate.tile.blocks == 1:
        raise TuningError(WRONG)
    return formula(candidate)


class Formula:
    """An executor: what `compile` wrote is a list of candidates, and their time is a formula.

    Args:
        clock: the formula.
        after: called before each trial with its number, from 0.
    """

    def __init__(self, clock: Clock = formula, after: Callable[[int], None] = lambda _number: None) -> None:
        self.clock, self.after = clock, after
        self.seen: list[tuple[str, Candidate]] = []

    def submit(self, work: Measure | Compare) -> Future[Any]:
        future: Future[Any] = Future()
        candidates = pickle.loads(Path(work.compiled).read_bytes())  # noqa: S301 - written by `Pretending`
        if isinstance(work, Compare):
            future.set_result([self._readings(candidate) for candidate in candidates])
            return future
        (candidate,) = candidates
        self.after(len(self.seen))
        self.seen.append((Path(work.task).name, candidate))
        try:
            future.set_result(Reading(seconds=self.clock(candidate), uncertainty=0.0, readings=7, pauses=0))
        except TuningError as error:
            future.set_exception(error)
        return future

    def _readings(self, candidate: Candidate) -> list[float] | None:
        """The cost table's own choice comes without a tile."""
        try:
            return [2e-5 if candidate.tile is None else self.clock(candidate)] * 9
        except TuningError:
            return None

    def names(self) -> list[str]:
        return ["a formula"]

    def close(self) -> None:
        pass


class Pretending(tuning.Workshop):
    """Writes candidates down where a workshop compiles them."""

    def compile(self, name: str, candidates: tuple[Candidate, ...]) -> Future[str]:
        path = self.folder / f"{name}_{next(self._numbers)}"
        path.write_bytes(pickle.dumps(candidates))
        future: Future[str] = Future()
        future.set_result(str(path))
        return future


def pretend(folder: Path, budget: Budget, executor: Formula | None = None, watch: Any = None) -> TuneResult:
    """Tunes `network` with candidates whose time is a formula."""
    genuine, tuning.Workshop = tuning.Workshop, Pretending
    makers, tuning.make_tasks = tuning.make_tasks, lambda *_arguments: list(tasks())
    try:
        return tuning.tune(
            network(),
            TARGET,
            KEY,
            budget,
            folder,
            watch=watch or (lambda _status: None),
            make_executor=lambda: executor or Formula(),
        )
    finally:
        tuning.Workshop, tuning.make_tasks = genuine, makers


def die(folder: str, trials: int) -> None:
    """Tunes until so many trials are under way, and is killed then."""

    def kill(number: int) -> None:
        if number == trials:
            os.kill(os.getpid(), signal.SIGKILL)

    pretend(Path(folder), Budget(trials=1000), Formula(after=kill))
