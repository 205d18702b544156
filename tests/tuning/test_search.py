"""The search as a whole, on candidates whose time is a formula: budgets, interruptions, what is gone on with."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tunings import KEY, Formula, Pretending, formula, points, pretend, tasks, wrong_narrow

from lqcompile.errors import TuningError
from lqcompile.lowering.choose import Candidate
from lqcompile.records.tuned import read_tuned, write_tuned
from lqcompile.tuning import tune as tuning
from lqcompile.tuning.budget import Budget
from lqcompile.tuning.database import open_database
from lqcompile.tuning.outcome import Status
from lqcompile.tuning.processes import NowhereError
from lqcompile.tuning.strategy import FIRST_GUESSES
from lqcompile.tuning.tune import check_extra
from lqcompile.tuning.work import WRONG, Measure


def test_it_finds_the_fastest_of_all(tmp_path: Path) -> None:
    executor, seen = Formula(), list[Status]()
    result = pretend(tmp_path, Budget(trials=330), executor, seen.append)
    assert len(set(executor.seen)) == len(executor.seen) == result.trials
    for task, entry in zip(tasks(), result.tuned, strict=True):
        best = min(points(task), key=formula)
        assert (entry.best.kernel, entry.best.tile["pixels"]) == (best.family, best.tile.pixels)
        assert entry.gain == pytest.approx(2e-5 / formula(best)) and entry.untuned.us == 20.0
    assert result.layers == tuple(task.layers for task in tasks())
    assert read_tuned(tmp_path) == list(result.tuned)
    assert len(open_database(tmp_path)) == result.trials
    numbers, gains = zip(*result.curve, strict=True)
    assert numbers == tuple(range(result.trials + 1))
    assert list(gains) == sorted(gains) and gains[0] == 1.0
    weights = [len(task.layers) for task in tasks()]
    tuned = sum(weight / entry.gain for weight, entry in zip(weights, result.tuned, strict=True))
    assert gains[-1] == pytest.approx(sum(weights) / tuned), "what the comparison of the finalists found"
    assert seen[-1].trials == result.trials and seen[-1].sites == ("a formula",)
    assert set(result.to_json()) >= {"key", "contractions", "trials", "failures", "curve", "interrupted"}
    begun = Counter(name for name, _ in executor.seen[: FIRST_GUESSES * len(tasks())])
    assert begun == dict.fromkeys((task.name for task in tasks()), FIRST_GUESSES), (
        "some guesses of every task come first"
    )
    for task in tasks():
        own = [candidate for name, candidate in executor.seen if name == task.name]
        assert own[0] == task.guesses[0]
        assert set(own[: len(task.guesses)]) == set(task.guesses), "and all of them before what the search finds"


def test_candidates_are_timed_beside_the_first_guess(tmp_path: Path) -> None:
    class Watching(Formula):
        def submit(self, work: Any) -> Any:
            if isinstance(work, Measure):
                made = work.first and pickle.loads(Path(work.first.compiled).read_bytes())  # noqa: S301
                beside.append(work.first and (made, work.first.seconds))
                files[Path(work.task).name].add(work.first.compiled if work.first else work.compiled)
            return super().submit(work)

    starts = {task.name: task.guesses[0] for task in tasks()}
    for earlier in (0, 12):  # what is gone on with knows the times of first guesses
        beside: list[Any] = []
        files: defaultdict[str, set[str]] = defaultdict(set)
        executor = Watching()
        assert pretend(tmp_path, Budget(trials=12), executor).earlier == earlier
        firsts = [None if trial == starts[name] else starts[name] for name, trial in executor.seen]
        assert beside == [first and ((first,), formula(first)) for first in firsts]
        assert (None in firsts) == (earlier == 0) and {len(paths) for paths in files.values()} == {1}, "compiled once"


def test_a_first_guess_that_no_longer_compiles_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = Pretending.compile

    def compile_others(shop: Any, name: str, candidates: tuple[Candidate, ...]) -> Any:
        future = genuine(shop, name, candidates)
        if candidates == shop.ledger.progress[name].task.guesses[:1]:
            future = type(future)()
            future.set_exception(TimeoutError())
        return future

    pretend(tmp_path, Budget(trials=12))
    monkeypatch.setattr(Pretending, "compile", compile_others)
    message = (
        r"^node '\w+': found the cost table's kernel, measured before, not to compile now \(it took too long\), "
        r"expected it to; run the same command again, which goes on where this one stopped$"
    )
    with pytest.raises(TuningError, match=message):
        pretend(tmp_path, Budget(trials=12))
    assert len(open_database(tmp_path)) == 12


def test_the_budget_of_trials_is_kept(tmp_path: Path) -> None:
    executor = Formula()
    result = pretend(tmp_path, Budget(trials=10), executor)
    assert result.trials == len(executor.seen) == len(open_database(tmp_path)) == 10


def test_the_budget_of_time_is_kept(tmp_path: Path) -> None:
    result = pretend(tmp_path, Budget(seconds=3.0), Formula(after=lambda _number: time.sleep(0.3)))
    assert 1 <= result.trials < sum(len(points(task)) for task in tasks())


def test_wrong_candidates_are_counted_and_never_chosen(tmp_path: Path) -> None:
    result = pretend(tmp_path, Budget(trials=30), Formula(wrong_narrow))
    failed = sum(entry.failed for entry in result.tuned)
    assert failed > 0 and result.failures == {WRONG: failed}
    assert not any(entry.best.kernel == "lut" and entry.best.tile.get("blocks") == 1 for entry in result.tuned)


def test_a_tuning_that_was_killed_goes_on_where_it_stopped(tmp_path: Path) -> None:
    code = f"import sys; sys.path[:0] = {[*sys.path]!r}; import tunings; tunings.die(sys.argv[1], 9)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "tuned.json").exists()
    executor = Formula()
    result = pretend(tmp_path, Budget(trials=20), executor)
    assert (result.earlier, result.trials) == (9, 20)
    assert len(open_database(tmp_path)) == 29
    again = Formula()
    pretend(tmp_path, Budget(trials=10), again)
    assert not set(again.seen) & set(executor.seen)


def test_after_an_interrupt_what_is_known_counts(tmp_path: Path) -> None:
    def interrupt(number: int) -> None:
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    result = pretend(tmp_path, Budget(trials=1000), Formula(after=interrupt))
    assert result.interrupted and 4 <= result.trials <= 5
    assert 1 <= len(read_tuned(tmp_path)) == len(result.layers) < len(tasks()), "of those that were measured"
    assert signal.getsignal(signal.SIGINT) is before


def test_without_boards_it_ends_and_keeps_what_it_has(tmp_path: Path) -> None:
    class Leaving(Formula):
        def submit(self, work: Any) -> Any:
            future = super().submit(work)
            if len(self.seen) > 7:
                future = type(future)()
                future.set_exception(NowhereError("boards: found none"))
            return future

    with pytest.raises(TuningError, match=r"^boards: found none$"):
        pretend(tmp_path, Budget(trials=1000), Leaving())
    assert len(open_database(tmp_path)) == 7


def test_records_of_another_machine_stay(tmp_path: Path) -> None:
    pretend(tmp_path, Budget(trials=3))
    (entry,) = read_tuned(tmp_path)
    foreign = replace(entry, key=replace(KEY, cpu="x"))
    write_tuned(tmp_path / "tuned.json", [foreign])
    pretend(tmp_path, Budget(trials=3))
    records = read_tuned(tmp_path)
    assert foreign in records
    assert {item.key.cpu for item in records} == {"Test CPU", "x"}


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = tuning.importlib.util.find_spec
    monkeypatch.setattr(tuning.importlib.util, "find_spec", lambda name: None if name == "xgboost" else genuine(name))
    message = r"^lqcompile tune: found no xgboost, expected the tuning extra; pip install 'lqcompile\[tune\]'$"
    with pytest.raises(TuningError, match=message):
        check_extra()
