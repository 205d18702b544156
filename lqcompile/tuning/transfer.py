"""What one layer teaches another: guesses are tried first whose like was fast elsewhere in the network."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from lqcompile.lowering.choose import Candidate
from lqcompile.schedules.space import Space
from lqcompile.tuning.ledger import Ledger, Progress
from lqcompile.tuning.task import Task

Change = tuple[str, frozenset[tuple[str, bool]]]
"""How a candidate differs from the first tile of its family: the family, and which fields are larger or smaller."""

UNKNOWN = 1.0
"""Gain of a change that nobody tried."""


def change(candidate: Candidate, spaces: Mapping[str, Space]) -> Change:
    """How a candidate differs from what its family begins with.

    Numbers themselves mean little on another shape: twelve pieces are many for one layer and few for another.
    """
    if candidate.tile is None:
        return candidate.family, frozenset()
    first, own = (asdict(tile) for tile in (spaces[candidate.family].tiles[0], candidate.tile))
    return candidate.family, frozenset((name, own[name] > first[name]) for name in own if own[name] != first[name])


def promising_first(guesses: Sequence[Candidate], task: Task, ledger: Ledger) -> list[Candidate]:
    """Guesses by the median gain that changes like theirs had in other tasks over those tasks' first guess.

    The task's own first guess stays where it is; of equal ones the order stays.

    Args:
        guesses: that were not measured yet.
        task: they are of.
        ledger: of all tasks.
    """
    gains: dict[Change, list[float]] = {}
    for name, entry in ledger.progress.items():
        if name != task.name:
            for candidate, gain in _gains(entry).items():
                gains.setdefault(change(candidate, entry.task.spaces), []).append(gain)

    def rank(guess: Candidate) -> float:
        if guess == task.guesses[0]:
            return -float("inf")
        return -statistics.median(gains.get(change(guess, task.spaces), [UNKNOWN]))

    return sorted(guesses, key=rank)


def _gains(entry: Progress) -> dict[Candidate, float]:
    """What each candidate but the first guess gained over that; a failed one gained nothing at all."""
    # A copy: trials that run elsewhere are written down meanwhile.
    known, first = dict(entry.seconds), entry.task.guesses[0]
    start = known.pop(first, None)
    if start is None:
        return {}
    return {item: start / seconds if seconds is not None else 0.0 for item, seconds in known.items()}
