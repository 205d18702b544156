"""Means, spreads and confidence intervals of differences between runs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal, TypeVar

from scipy.stats import t as student

KeyT = TypeVar("KeyT", bound=Hashable)

CONFIDENCE = 0.95

LEAST_FREEDOM = 2
"""Degrees of freedom below which a spread is not told at all: two values may agree by chance."""

Verdict = Literal["shown", "not shown", "refuted"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and how far it is known.

    Args:
        mean: of the values.
        count: how many there are.
        half: half the length of the 95 % confidence interval; None where there are too few values to tell it.
    """

    mean: float
    count: int
    half: float | None

    def at_least(self, bound: float) -> Verdict:
        """Whether the true mean is `bound` or more."""
        if self.half is None:
            return "not shown"
        if self.mean - self.half >= bound:
            return "shown"
        return "refuted" if self.mean + self.half < bound else "not shown"

    def at_most(self, bound: float) -> Verdict:
        """Whether the true mean is `bound` or less."""
        mirrored = Interval(mean=-self.mean, count=self.count, half=self.half)
        return mirrored.at_least(-bound)


def interval(values: Sequence[float]) -> Interval:
    """Student's interval of values that are drawn alike."""
    if len(values) - 1 < LEAST_FREEDOM:
        return Interval(mean=fmean(values), count=len(values), half=None)
    quantile = float(student.ppf(0.5 + CONFIDENCE / 2, len(values) - 1))
    return Interval(mean=fmean(values), count=len(values), half=quantile * stdev(values) / len(values) ** 0.5)


def pooled_intervals(groups: Mapping[KeyT, Sequence[float]]) -> dict[KeyT, Interval]:
    """Intervals of the groups, whose values are taken to spread alike around the mean of their group.

    Three seeds alone tell a spread badly; those of all settings together tell it well.

    Args:
        groups: none empty. A group of one value takes its interval from the spread of the others.
    """
    freedom = sum(len(values) - 1 for values in groups.values())
    squares = sum((value - fmean(values)) ** 2 for values in groups.values() for value in values)
    if freedom < LEAST_FREEDOM:
        return {key: Interval(mean=fmean(values), count=len(values), half=None) for key, values in groups.items()}
    reach = float(student.ppf(0.5 + CONFIDENCE / 2, freedom)) * (squares / freedom) ** 0.5
    return {
        key: Interval(mean=fmean(values), count=len(values), half=reach / len(values) ** 0.5)
        for key, values in groups.items()
    }
