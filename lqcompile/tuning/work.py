"""What is done with compiled candidates where they run: checking and timing one, comparing finalists."""

from __future__ import annotations

import functools
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from lqcompile.errors import TuningError
from lqcompile.kernels import Job, Steps
from lqcompile.lowering.choose import Candidate
from lqcompile.timing import spread
from lqcompile.trials import Compiled, compile_trials, is_equal, make_trial, with_family
from lqcompile.tuning.task import SOURCE, Task, load_task

ROUNDS = 7
"""Readings between two looks at how sure the median is."""

MOST_ROUNDS = 35

SURE = 0.01
"""Half of the 95 % interval of the median, as a part of it, at which a time is sure enough."""

HOPELESS = 1.3
"""A candidate that takes so many times as long as the best one is not measured more exactly."""

HOT_CELSIUS = 90.0
"""From here on processors lower their clock, or soon will."""

COOLING_S = 3.0
"""Pause of a machine that throttles or is hot, before its next readings."""

MOST_PAUSES = 5

WRONG = "its integers differ from the reference"


class Site(Protocol):
    """Where candidates run."""

    def open(self, job: Job) -> Steps:
        """Load compiled candidates."""

    def state(self) -> dict[str, Any]:
        """Clock, temperature and throttling, as `lqcompile.conditions` gives them."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Time of a candidate.

    Args:
        seconds: median of one call.
        uncertainty: half of its 95 % interval, as a part of it.
        readings: taken.
        pauses: that the machine got because it throttled or was hot.
    """

    seconds: float
    uncertainty: float
    readings: int
    pauses: int


@dataclass(frozen=True, kw_only=True)
class First:
    """The first guess of a task.

    Args:
        compiled: file of it, compiled.
        seconds: its time.
    """

    compiled: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Check a candidate, then time it, beside the first guess of its task where that was measured before.

    A clock that changes during a search, or a busy neighbour, then meets both; what counts is the ratio.

    Args:
        task: file of the task.
        compiled: file of the compiled candidate.
        best_s: least time of the task so far, None for none.
        first: the first guess, None for that itself and while it has no time.
    """

    task: str
    compiled: str
    best_s: float | None
    first: First | None = None

    def run(self, site: Site) -> Reading:
        """On a machine.

        Raises:
            TuningError: its integers are wrong.
        """
        compiled = read_compiled(self.compiled)
        beside = None if self.first is None else read_compiled(self.first.compiled)
        steps = site.open(compiled.job if beside is None else replace(compiled.job, beside=beside.job))
        if not is_equal(steps, compiled.checks[0], _task(self.task).expected):
            raise TuningError(WRONG)

        def read() -> list[float]:
            if self.first is None or beside is None:
                return steps.times(compiled.steps[:1], ROUNDS)[0]
            own, its = steps.times(compiled.steps[:1], ROUNDS, beside=beside.steps[:1])
            return [self.first.seconds * mine / other for mine, other in zip(own, its, strict=True)]

        return time_step(read, site.state, self.best_s)


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Check candidates, then time those that are right against one another.

    Args:
        task: file of the task.
        compiled: file of the compiled candidates.
        rounds: readings of each.
    """

    task: str
    compiled: str
    rounds: int

    def run(self, site: Site) -> list[list[float] | None]:
        """On a machine: readings of each candidate, interleaved; None for one whose integers are wrong."""
        compiled = read_compiled(self.compiled)
        steps, expected = site.open(compiled.job), _task(self.task).expected
        right = [index for index, check in enumerate(compiled.checks) if is_equal(steps, check, expected)]
        seconds = steps.times([compiled.steps[index] for index in right], self.rounds) if right else []
        found: list[list[float] | None] = [None] * len(compiled.steps)
        for index, readings in zip(right, seconds, strict=True):
            found[index] = readings
        return found


Work = Measure | Compare


def time_step(read: Callable[[], list[float]], state: Callable[[], dict[str, Any]], best_s: float | None) -> Reading:
    """Reads until the median is sure, or so slow that it does not matter.

    Readings after which the machine throttles or is hot are thrown away, and it gets a pause. A median and the interval
    of its rank need no rule for single outliers.

    Args:
        read: gives some readings in seconds.
        state: of the machine, as `lqcompile.conditions` gives it.
        best_s: of other candidates, None for none.
    """
    readings: list[float] = []
    pauses = 0
    while True:
        found = read()
        if pauses < MOST_PAUSES and is_hot(state()):
            pauses += 1
            time.sleep(COOLING_S)
            continue
        readings += found
        known = spread(readings)
        seconds = known.median_ms / 1e3
        hopeless = best_s is not None and seconds * (1 - known.uncertainty) > HOPELESS * best_s
        if known.uncertainty <= SURE or hopeless or len(readings) >= MOST_ROUNDS:
            return Reading(seconds=seconds, uncertainty=known.uncertainty, readings=len(readings), pauses=pauses)


def is_hot(state: dict[str, Any]) -> bool:
    """Whether a machine in this state (`lqcompile.conditions`) runs slower than it can."""
    heat = state["temperature_c"]
    return state["throttled"] not in (None, "0x0") or (heat is not None and heat >= HOT_CELSIUS)


def compile_candidates(task_path: str, candidates: tuple[Candidate, ...], path: str) -> str:
    """Compile candidates of a task into one file.

    Args:
        task_path: file of the task.
        candidates: kernel families and tiles.
        path: to write.

    Returns:
        `path`.
    """
    task = _task(task_path)
    trials = [
        make_trial(with_family(task.plan, task.layer, item.family, SOURCE), item, task.target, f"candidate{index}")
        for index, item in enumerate(candidates)
    ]
    compiled = compile_trials(task.plan, trials, task.target, task.values)
    Path(path).write_bytes(pickle.dumps(compiled))
    return path


def read_compiled(path: str) -> Compiled:
    """What `compile_candidates` wrote, in a folder of this program's own."""
    compiled: Compiled = pickle.loads(Path(path).read_bytes())  # noqa: S301
    return compiled


@functools.lru_cache(maxsize=8)
def _task(path: str) -> Task:
    return load_task(path)
