"""Timing calls against one another in one run, interleaved.

Each round times every runner once, in an order that changes, so that a change of clock speed or a busy neighbour meets
all of them alike. A quick runner is called several times a round, so that a reading is long against the timer and the
first call after another runner has the caches to itself.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lqcompile.errors import InputError

Runner = Callable[[], object]

_READING_S = 0.002
"""Shortest reading: a runner that is quicker is called several times for one."""

_WARM_UP_S = 0.05
"""Each runner runs this long, and at least twice, before anything counts."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time of one call over the rounds, in milliseconds."""

    median_ms: float
    p90_ms: float


def measure(
    runners: Mapping[str, Runner], repeats: int, progress: Callable[[str, float], None] | None = None
) -> dict[str, Timing]:
    """Time runners, interleaved.

    Args:
        runners: name to what is called.
        repeats: rounds; each gives one reading of every runner.
        progress: called with the runner's name and the part that is done.

    Returns:
        name to the median and the 90th percentile (the smallest reading that at least nine in ten do not exceed).

    Raises:
        InputError: `repeats` is not positive.
    """
    if repeats < 1:
        raise InputError(f"repeats: found {repeats}, expected at least 1")
    calls = {name: _warm_up(runner) for name, runner in runners.items()}
    readings: dict[str, list[float]] = {name: [] for name in runners}
    names = list(runners)
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            readings[name].append(_reading(runners[name], calls[name]))
        if progress is not None:
            progress("timing", (turn + 1) / repeats)
    return {
        name: Timing(
            median_ms=1e3 * statistics.median(times), p90_ms=1e3 * sorted(times)[math.ceil(0.9 * len(times)) - 1]
        )
        for name, times in readings.items()
    }


def _warm_up(runner: Runner) -> int:
    """Run for a while; give the calls that make one reading."""
    quickest, spent, runs = math.inf, 0.0, 0
    while runs < 2 or spent < _WARM_UP_S:
        last = _reading(runner, 1)
        quickest, spent, runs = min(quickest, last), spent + last, runs + 1
    return max(1, math.ceil(_READING_S / max(quickest, 1e-9)))


def _reading(runner: Runner, calls: int) -> float:
    """Seconds of one call, averaged over `calls`."""
    start = time.perf_counter()
    for _ in range(calls):
        runner()
    return (time.perf_counter() - start) / calls
