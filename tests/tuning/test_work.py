"""Candidates where they run: checked against the reference, timed until that is sure, in a process of their own."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import pytest
from compiling import missing
from tunings import TARGET, formula, points, tasks
from tvm.support import popen_pool

from lqcompile.errors import TuningError
from lqcompile.kernels import Kernels
from lqcompile.lowering.choose import Candidate
from lqcompile.tuning import processes, work
from lqcompile.tuning.finals import decide, finalists
from lqcompile.tuning.ledger import Progress
from lqcompile.tuning.processes import CompilePool, OneProcess, ThisMachine
from lqcompile.tuning.task import load_task
from lqcompile.tuning.work import WRONG, Compare, First, Measure, compile_candidates, is_hot, read_compiled, time_step
from lqcompile.tuning.workload import make_workload

COOL = {"throttled": None, "temperature_c": 50.0}
runs_here = pytest.mark.skipif(bool(missing(TARGET)), reason=f"this CPU does not run {TARGET.name}")


def script(*batches: list[float]) -> Callable[[], list[float]]:
    """Readings, one batch after the other; the last one for ever."""
    endless = itertools.chain(batches, itertools.repeat(batches[-1]))
    return lambda: next(endless)


def test_it_reads_until_the_median_is_sure() -> None:
    noisy = [1.0, 1.4, 0.9, 1.3, 0.8, 1.2, 1.1]
    assert time_step(script([1.0] * 7), lambda: COOL, None).readings == 7
    unsure = time_step(script(noisy), lambda: COOL, None)
    assert unsure.readings == work.MOST_ROUNDS and unsure.uncertainty > work.SURE
    calming = time_step(script(noisy, [1.1] * 7), lambda: COOL, None)
    assert 7 < calming.readings < work.MOST_ROUNDS and calming.seconds == 1.1


def test_a_hopeless_candidate_is_not_measured_exactly() -> None:
    noisy = [2.0, 2.4, 1.9, 2.3, 1.8, 2.2, 2.1]
    assert time_step(script(noisy), lambda: COOL, 1.0).readings == 7
    assert time_step(script(noisy), lambda: COOL, 2.0).readings > 7


def test_readings_of_a_hot_machine_are_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(work.time, "sleep", pauses.append)
    states = iter([{**COOL, "throttled": "0x4"}, {**COOL, "temperature_c": 95.0}])
    found = time_step(script([9.0] * 7, [9.0] * 7, [1.0] * 7), lambda: next(states, COOL), None)
    assert (found.seconds, found.readings, found.pauses) == (1.0, 7, 2) and len(pauses) == 2
    assert time_step(script([9.0] * 7), lambda: {**COOL, "throttled": "0x4"}, None).pauses == work.MOST_PAUSES
    assert [is_hot({**COOL, "throttled": flags}) for flags in (None, "0x0", "0x50000")] == [False, False, True]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Files of a task, and of the cost table's choice and the last point of each design space, compiled together."""
    folder = tmp_path_factory.mktemp("compiled")
    task = tasks()[1]
    task.save(folder / "task")
    last = {candidate.family: candidate for candidate in points(task)}
    candidates = (Candidate(family=task.layer.family), *last.values())
    return str(folder / "task"), compile_candidates(str(folder / "task"), candidates, str(folder / "compiled"))


class Drifting:
    """A site whose clock is slower in each round; a candidate takes 6 seconds at first, one beside it 4."""

    def open(self, _job: Any) -> Any:
        return SimpleNamespace(times=self.times)

    def times(self, steps: Sequence[int], rounds: int, beside: Sequence[int] = ()) -> list[list[float]]:
        bases = [6.0] * len(steps) + [4.0] * len(beside)
        return [[base * (1 + number) for number in range(rounds)] for base in bases]

    def state(self) -> dict[str, Any]:
        return COOL


def test_a_clock_that_changes_meets_the_first_guess_too(
    compiled: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "is_equal", lambda *_arguments: True)
    task, path = compiled
    alone = Measure(task=task, compiled=path, best_s=None).run(Drifting())
    assert alone.seconds == 24.0 and alone.uncertainty > work.SURE
    first = First(compiled=path, seconds=2.0)
    beside = Measure(task=task, compiled=path, best_s=None, first=first).run(Drifting())
    assert (beside.seconds, beside.uncertainty, beside.readings) == (3.0, 0.0, work.ROUNDS)


@runs_here
def test_right_candidates_are_timed(compiled: tuple[str, str]) -> None:
    task, path = compiled
    reading = Measure(task=task, compiled=path, best_s=None).run(ThisMachine())
    assert reading.seconds > 0 and reading.readings >= 7
    beside = Measure(task=task, compiled=path, best_s=None, first=First(compiled=path, seconds=1.0)).run(ThisMachine())
    assert beside.seconds > 0 and beside.readings >= 7
    readings = Compare(task=task, compiled=path, rounds=5).run(ThisMachine())
    assert {len(found or []) for found in readings} == {5} and len(readings) > 2


@runs_here
def test_the_first_guess_is_timed_in_memory_of_its_own(compiled: tuple[str, str]) -> None:
    one, other, *_ = [check for check in read_compiled(compiled[1]).checks if check is not None]
    job = read_compiled(compiled[1]).job
    kernels = Kernels(replace(job, beside=job))
    assert kernels._beside is not None
    readings = kernels.times([one.step], 3, beside=[other.step])
    assert [len(seconds) for seconds in readings] == [3, 3]
    for opened, ran, rested in ((kernels, one, other), (kernels._beside, other, one)):
        assert opened._memory[ran.port].any() and not opened._memory[rested.port].any()


@runs_here
def test_wrong_candidates_are_rejected(compiled: tuple[str, str], tmp_path: Path) -> None:
    _, path = compiled
    task = load_task(compiled[0])
    assert task.expected is not None
    task.expected.flat[-1] += 1
    task.save(tmp_path / "task")
    with pytest.raises(TuningError, match=f"^{WRONG}$"):
        Measure(task=str(tmp_path / "task"), compiled=path, best_s=None).run(ThisMachine())
    assert Compare(task=str(tmp_path / "task"), compiled=path, rounds=5).run(ThisMachine()) == [None] * (
        1 + len(task.spaces)
    )


@dataclass(frozen=True)
class Behave:
    """Work that does something else."""

    what: str

    def run(self, _site: Any) -> Any:
        if self.what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.what == "hang":
            time.sleep(3600)
        if self.what == "refuse":
            raise TuningError("refused")
        os.kill(os.getpid(), signal.SIGINT)
        return self.what


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sends Ctrl-C to every process that is started, before it runs its first line; their numbers."""
    started: list[int] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            os.kill(self.pid, signal.SIGINT)
            started.append(self.pid)

    monkeypatch.setattr(popen_pool.subprocess, "Popen", Interrupted)
    return started


def test_processes_that_compile_do_not_see_ctrl_c(interrupted: list[int]) -> None:
    pool = CompilePool(1)
    try:
        assert [pool.submit(os.getpid).result()] == interrupted
    finally:
        pool.shutdown()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "the program itself does"


def test_the_process_that_runs_candidates_may_crash_and_hang(
    interrupted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[Behave.__module__])
    executor: Any = OneProcess()
    try:
        assert executor.submit(Behave("anything")).result() == "anything", "Ctrl-C is for the program alone"
        assert len(interrupted) == 1, "the process met it while it was starting too"
        for what, message in (("refuse", "^refused$"), ("crash", "^it crashed the process that ran it$")):
            with pytest.raises(TuningError, match=message):
                executor.submit(Behave(what)).result()
        assert executor.submit(Behave("more")).result() == "more"
        monkeypatch.setattr(processes, "RUN_S", 0.5)
        with pytest.raises(TuningError, match=r"^it ran for more than 0.5 s$"):
            executor.submit(Behave("hang")).result()
    finally:
        executor.close()


def progress() -> Progress:
    """A task of which all candidates were measured."""
    task = tasks()[0]
    found = Progress(task=task, module=make_workload(task.instance, task.key, task.spaces))
    for family, space in task.spaces.items():
        for tile in space.tiles:
            candidate = Candidate(family=family, tile=tile)
            found.seconds[candidate] = None if family == "dot8" else formula(candidate)
    return found


def test_the_finalists_are_the_tables_choice_and_the_fastest() -> None:
    entry = progress()
    first, *others = finalists(entry)
    assert first == Candidate(family=entry.task.layer.family)
    times = [formula(candidate) for candidate in others]
    assert len(others) == 3 and times == sorted(times)
    assert times[0] == min(formula(candidate) for candidate, value in entry.seconds.items() if value is not None)


def test_only_a_clear_gain_replaces_the_tables_choice() -> None:
    entry, rng = progress(), np.random.default_rng(0)
    candidates = finalists(entry)[:3]
    drift = np.linspace(1.0, 2.0, 41)  # a clock that is lowered, for all alike
    base = list(1e-5 * drift)
    faster, slower = [value / 1.2 for value in base], [value * 1.1 for value in base]
    won = decide(entry, candidates, [base, slower, faster])
    assert won.gain == pytest.approx(1.2) and won.best.tile == vars(candidates[2].tile)
    assert (won.untuned.kernel, won.untuned.tile, won.failed) == (candidates[0].family, {}, entry.failed)
    noisy = [float(value * noise) for value, noise in zip(base, rng.lognormal(-0.02, 0.2, 41), strict=True)]
    for unclear in ([value / 1.005 for value in base], noisy, None):
        kept = decide(entry, candidates, [base, unclear, slower])
        assert kept.best == kept.untuned and kept.gain == 1.0
    message = r"^node 'region1': found wrong integers from the cost table's kernel, expected those of the ref"
    with pytest.raises(TuningError, match=message):
        decide(entry, candidates, [None, faster, slower])
