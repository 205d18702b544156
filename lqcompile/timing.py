"""Timing calls against one another in one run, interleaved.

Each round times every runner once, in an order that changes, so that a change of clock speed or a busy neighbour meets
all of them alike. A quick runner is called several times a round, so that a reading is long against the timer and the
first call after another runner has the caches to itself.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from lqcompile.errors import InputError

Runner = Callable[[], object]

_READING_S = 0.002
"""Shortest reading: a runner that is quicker is called several times for one."""

_WARM_UP_S = 0.05
"""Each runner runs this long, and at least twice, before anything counts."""

_FEWEST_FOR_DRIFT = 9
"""Readings below which thirds say nothing."""


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
    stopwatch = Stopwatch(runners)
    rounds = []
    for turn in range(repeats):
        rounds.append(stopwatch.round())
        if progress is not None:
            progress("timing", (turn + 1) / repeats)
    return {
        name: Timing(median_ms=1e3 * statistics.median(times), p90_ms=1e3 * percentile(sorted(times), 0.9))
        for name in runners
        for times in [[entry[name] for entry in rounds]]
    }


class Stopwatch:
    """Runners, warmed up.

    Args:
        runners: name to what is called; at least one.
    """

    def __init__(self, runners: Mapping[str, Runner]) -> None:
        self._runners = dict(runners)
        self._calls = {name: _warm_up(runner) for name, runner in runners.items()}
        self._turn = 0

    def round(self) -> dict[str, float]:
        """Time each runner once; name to the seconds of one call."""
        names = list(self._runners)
        shift = self._turn % len(names)
        self._turn += 1
        return {name: _reading(self._runners[name], self._calls[name]) for name in names[shift:] + names[:shift]}


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Readings of one runner, in milliseconds.

    Args:
        median_ms: half of the readings are above.
        p10_ms: the smallest reading that at least one in ten does not exceed.
        p90_ms: likewise nine in ten.
        p99_ms: likewise 99 in 100.
        uncertainty: half of the 95 % interval of the median, as a part of the median.
        drift: median of the last third over that of the first third, less 1; None for fewer than nine readings.
        readings: how many.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    p99_ms: float
    uncertainty: float
    drift: float | None
    readings: int

    def to_json(self) -> dict[str, float | int | None]:
        """Stable keys."""
        return asdict(self)


def spread(seconds: Sequence[float]) -> Spread:
    """Sum readings up.

    Args:
        seconds: readings in the order in which they were taken; at least one.
    """
    ordered = sorted(seconds)
    third = len(seconds) // 3
    drift = None
    if len(seconds) >= _FEWEST_FOR_DRIFT:
        drift = statistics.median(seconds[-third:]) / statistics.median(seconds[:third]) - 1
    return Spread(
        median_ms=1e3 * statistics.median(ordered),
        p10_ms=1e3 * percentile(ordered, 0.10),
        p90_ms=1e3 * percentile(ordered, 0.90),
        p99_ms=1e3 * percentile(ordered, 0.99),
        uncertainty=_uncertainty(ordered),
        drift=drift,
        readings=len(ordered),
    )


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest reading that at least `part` of the sorted readings do not exceed."""
    return ordered[math.ceil(part * len(ordered)) - 1]


def _uncertainty(ordered: Sequence[float]) -> float:
    """Half of the 95 % interval of the median, from order statistics: no distribution is assumed.

    The number of readings below the true median is binomial; 1.96 standard deviations are 0.98 sqrt(n) ranks.
    """
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low = max(0, math.floor(count / 2 - reach))
    high = min(count - 1, math.ceil(count / 2 + reach))
    return (ordered[high] - ordered[low]) / 2 / statistics.median(ordered)


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
