"""How the gain is said to have grown: by what the finals found, trial by trial."""

from __future__ import annotations

import pytest
from lqcompile.schedules.problem import Tile

from lqcompile.lowering.choose import Candidate
from lqcompile.tuning.curve import Winner, gain_after, gain_curve, trials_to

SLOW, FAST = (Candidate(family="lut", tile=Tile(pixels=pixels, blocks=1)) for pixels in (1, 2))


def winner(candidate: Candidate, us: float) -> Winner:
    """Of a task whose layers take 60 microseconds untuned."""
    return Winner(candidate=candidate, untuned_us=60.0, us=us)


def test_a_winner_counts_from_the_trial_that_measured_it() -> None:
    trials = [("first", SLOW), ("second", SLOW), ("first", FAST), ("second", FAST)]
    winners = {"first": winner(FAST, 20.0), "second": winner(SLOW, 60.0)}
    assert gain_curve(trials, winners) == ((0, 1.0), (1, 1.0), (2, 1.0), (3, 1.5), (4, 1.5))


def test_what_an_earlier_run_measured_was_there_from_the_start() -> None:
    winners = {"first": winner(FAST, 20.0), "second": winner(FAST, 30.0)}
    curve = gain_curve([("second", SLOW), ("second", FAST)], winners)
    assert [number for number, _ in curve] == [0, 1, 2]
    assert [gain for _, gain in curve] == pytest.approx([1.5, 1.5, 2.4])


def test_without_a_gain_there_are_no_parts_of_it() -> None:
    curve = gain_curve([("first", SLOW)], {"first": winner(SLOW, 60.0)})
    assert curve == ((0, 1.0), (1, 1.0))
    assert gain_after(curve, 0.1) is None and trials_to(curve, 0.5) is None
    assert gain_curve([], {}) == () and gain_after((), 0.1) is None and trials_to((), 0.5) is None


def test_parts_of_the_gain_and_of_the_trials() -> None:
    curve = ((0, 1.0), (1, 1.0), (2, 1.1), (3, 1.4), (4, 1.4))
    assert gain_after(curve, 0.25) == 0.0 and gain_after(curve, 0.5) == 0.25 and gain_after(curve, 1.0) == 1.0
    assert trials_to(curve, 0.25) == 0.5 and trials_to(curve, 0.5) == 0.75
