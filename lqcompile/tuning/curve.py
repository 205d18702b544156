"""How the gain of a network grew with the trials, told when it is known what each of them was worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lqcompile.lowering.choose import Candidate

Trial = tuple[str, Candidate]
"""Name of a task, and what was measured of it."""

Curve = tuple[tuple[int, float], ...]
"""(trials so far, gain), from no trial on."""


@dataclass(frozen=True, kw_only=True)
class Winner:
    """What the comparison of the finalists found for one task.

    Args:
        candidate: the fastest.
        untuned_us: time of its layers, as the cost table chooses.
        us: and with the winner.
    """

    candidate: Candidate
    untuned_us: float
    us: float


def gain_curve(trials: Sequence[Trial], winners: Mapping[str, Winner]) -> Curve:
    """The gain of the network after each trial, had the search ended there.

    A winner counts from the trial on that measured it, with the gain of the interleaved comparison: least times during
    a search flatter, for they are the luckiest of many. Until then its layers run as the cost table chooses. What no
    trial measured was known before.

    Args:
        trials: in the order in which they were measured.
        winners: by name of task.
    """
    missing = {(name, winner.candidate) for name, winner in winners.items()} & set(trials)
    start = sum(winner.untuned_us for winner in winners.values())
    now = sum(
        winner.untuned_us if (name, winner.candidate) in missing else winner.us for name, winner in winners.items()
    )
    curve = [(0, start / now)] if winners else []
    for number, trial in enumerate(trials, start=1):
        name, _ = trial
        if trial in missing:
            now -= winners[name].untuned_us - winners[name].us
            missing.remove(trial)
        if winners:
            curve.append((number, start / now))
    return tuple(curve)


def gain_after(curve: Curve, part: float) -> float | None:
    """The part of the final gain that was there after a part of the trials; None without a gain.

    Example:
        >>> gain_after(((0, 1.0), (1, 1.3), (2, 1.3), (3, 1.4), (4, 1.5)), part=0.5)
        0.6
    """
    trials, final = curve[-1] if curve else (0, 1.0)
    if final <= 1.0:
        return None
    reached = max(gain for number, gain in curve if number <= part * trials)
    return round((reached - 1) / (final - 1), 3)


def trials_to(curve: Curve, part: float) -> float | None:
    """The part of the trials after which a part of the final gain was there; None without a gain.

    Example:
        >>> trials_to(((0, 1.0), (1, 1.3), (2, 1.3), (3, 1.4), (4, 1.5)), part=0.5)
        0.25
    """
    trials, final = curve[-1] if curve else (0, 1.0)
    if final <= 1.0 or trials == 0:
        return None
    return next(number for number, gain in curve if gain - 1 >= (final - 1) * part) / trials
