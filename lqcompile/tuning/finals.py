"""The last word: the fastest candidates of a task against what the cost table picks, interleaved on one machine."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import UTC, datetime

from lqcompile.errors import TuningError
from lqcompile.lowering.choose import Candidate
from lqcompile.records.apply import write_tile
from lqcompile.records.tuned import Timed, Tuned
from lqcompile.timing import spread
from lqcompile.tuning.ledger import Progress

FINALISTS = 3
"""Fastest candidates that are compared again: the very fastest owes some of it to luck."""

ROUNDS = 41

MARGIN = 0.01
"""A candidate is clearly faster if its gain, less half of its 95 % interval, is more than this."""


def finalists(entry: Progress) -> tuple[Candidate, ...]:
    """What the cost table and the schedule's model pick, and the fastest others."""
    untuned = entry.task.guesses[0]
    others = [candidate for candidate in entry.fastest(FINALISTS + 1) if candidate != untuned]
    return (Candidate(family=untuned.family), *others[:FINALISTS])


def decide(entry: Progress, candidates: Sequence[Candidate], readings: Sequence[Sequence[float] | None]) -> Tuned:
    """The record of a task: the fastest that is clearly faster than the cost table's choice, or that choice.

    Args:
        entry: what is known of the task.
        candidates: `finalists`.
        readings: seconds of each, interleaved; None for one whose integers were wrong.

    Raises:
        TuningError: the cost table's own choice is wrong.
    """
    base = readings[0]
    if base is None:
        raise TuningError(
            f"node {entry.task.layers[0]!r}: found wrong integers from the cost table's kernel, expected those of the "
            "reference; report this as a bug"
        )
    best, gain = 0, 1.0
    for index, found in enumerate(readings):
        if index == 0 or found is None:
            continue
        ratios = spread([slow / fast for slow, fast in zip(base, found, strict=True)])
        ratio = ratios.median_ms / 1e3
        if ratio * (1 - ratios.uncertainty) > 1 + MARGIN and ratio > gain:
            best, gain = index, ratio
    untuned, winner = (_timed(candidates[index], readings[index]) for index in (0, best))
    return Tuned(
        key=entry.task.key,
        instance=entry.task.instance,
        best=winner,
        untuned=untuned,
        gain=gain,
        trials=len(entry.seconds),
        failed=entry.failed,
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _timed(candidate: Candidate, readings: Sequence[float] | None) -> Timed:
    return Timed(
        kernel=candidate.family,
        tile=write_tile(candidate.tile),
        us=round(1e6 * statistics.median(readings or [0.0]), 3),
    )
