"""Budgets on the command line, and what they stop."""

from __future__ import annotations

import pytest

from lqcompile.errors import InputError, TuningError
from lqcompile.tuning.budget import Budget, parse_budget
from lqcompile.tuning.control import Control


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("1.5m", 90.0), ("2h", 7200.0)])
def test_times(text: str, seconds: float) -> None:
    assert parse_budget(text) == Budget(seconds=seconds)


def test_trials() -> None:
    assert parse_budget("trials=12") == Budget(trials=12)


@pytest.mark.parametrize("text", ["0s", "trials=0", "20", "trials", "-3m", "trials=-1", "m", "3 m", "0.0h"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=f"^budget: found '{text}', expected a time such as 20m, .* or trials=500$"):
        parse_budget(text)


def test_trials_are_granted_until_they_are_spent() -> None:
    control = Control(Budget(trials=10))
    assert [control.claim(4), control.claim(4), control.stops(), control.claim(4), control.stops()] == [
        4,
        4,
        False,
        2,
        True,
    ]
    assert control.trials_left == 0 and control.seconds_left is None


def test_the_comparison_of_the_finalists_is_part_of_a_budget_of_time() -> None:
    control = Control(Budget(seconds=100.0))
    control.reserve(10)
    assert 70.0 < (control.seconds_left or 0.0) <= 80.0
    short = Control(Budget(seconds=4.0))
    short.reserve(10)
    assert 2.0 < (short.seconds_left or 0.0) <= 3.0
    assert control.claim(1000) == 1000


def test_the_first_failure_stops_and_stays() -> None:
    control = Control(Budget(trials=10))
    first = TuningError("first")
    control.fail(first)
    control.fail(TuningError("second"))
    assert control.stops() and control.failure is first
