"""What was fast in one layer is tried early in the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tunings import tasks

from lqcompile.lowering.choose import Candidate
from lqcompile.tuning.ledger import Progress
from lqcompile.tuning.transfer import change, promising_first


def ledger(**seconds: dict[Candidate, float | None]) -> Any:
    """What was measured of tasks, by their place among `tasks`."""
    known: Any = None
    return SimpleNamespace(
        progress={
            task.name: Progress(task=task, module=known, seconds=dict(seconds.get(f"task{index}", {})))
            for index, task in enumerate(tasks())
        }
    )


def other(index: int, **fields: int) -> Candidate:
    """The look-up tile of a task with other knobs."""
    space = tasks()[index].spaces["lut"]
    values = {name: values[0] for name, values in space.knobs.items()} | fields
    return Candidate(family="lut", tile=space.choose(0, values))


def test_a_change_is_a_direction() -> None:
    spaces = tasks()[0].spaces
    assert change(other(0), spaces) == ("lut", frozenset())
    assert change(other(0, unroll=4), spaces) == ("lut", frozenset({("unroll", True)}))
    assert change(other(0, unroll=1, rows=3), spaces) == ("lut", frozenset({("unroll", False), ("rows", True)}))
    assert change(Candidate(family="dot8"), spaces) == ("dot8", frozenset())


def test_what_gained_elsewhere_comes_first_and_what_lost_last() -> None:
    task = tasks()[1]
    first = task.guesses[0]
    less, more, rows = other(1, unroll=1), other(1, unroll=4), other(1, rows=3)
    guesses = [first, less, rows, more]
    assert promising_first(guesses, task, ledger()) == guesses, "nothing is known yet"
    start = tasks()[0].guesses[0]
    measured = {start: 1.0, other(0, unroll=1): 1.25, other(0, unroll=4): 0.5}
    assert promising_first(guesses, task, ledger(task0=measured)) == [first, more, rows, less]
    assert promising_first(guesses, task, ledger(task1=measured)) == guesses, "its own trials teach it nothing here"
    wrong = {start: 1.0, other(0, rows=3): None}
    assert promising_first(guesses, task, ledger(task0=wrong)) == [first, less, more, rows], "it failed there"
    alone = {other(0, unroll=4): 0.5}
    assert promising_first(guesses, task, ledger(task0=alone)) == guesses, "without a start there is no gain"
