"""Builder and runner of MetaSchedule: candidates become kernels by lowering, and run where an executor runs them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.runner import PyRunner, PyRunnerFuture, RunnerInput, RunnerResult

from lqcompile.errors import LQCompileError, TuningError
from lqcompile.lowering.choose import Candidate
from lqcompile.tuning.control import Control
from lqcompile.tuning.ledger import Ledger
from lqcompile.tuning.processes import CompilePool, Executor, NowhereError
from lqcompile.tuning.work import First, Measure, Reading, compile_candidates
from lqcompile.tuning.workload import identity, read_candidate

STOPPED = "tuning stopped before it was measured"


class Workshop:
    """Compiled candidates in a folder, and the processes that make them.

    Args:
        ledger: of the tasks.
        control: of the run.
        folder: for files of this run; they go with it.
        workers: processes that compile.
    """

    def __init__(self, ledger: Ledger, control: Control, folder: Path, workers: int) -> None:
        self.ledger, self.control, self.folder = ledger, control, folder
        self.names = {identity(entry.module): name for name, entry in ledger.progress.items()}
        self.made: dict[str, tuple[str, Candidate]] = {}
        """Task and candidate by file."""
        self._numbers = itertools.count()
        self._firsts: dict[str, Future[str]] = {}
        self._pool = CompilePool(workers)
        for name, entry in ledger.progress.items():
            entry.task.save(folder / name)

    def first(self, name: str) -> Future[str]:
        """The file of a task's first guess, which is compiled once and stays: others are timed beside it."""
        if name not in self._firsts:
            self._firsts[name] = self.compile(name, self.ledger.progress[name].task.guesses[:1])
        return self._firsts[name]

    def compile(self, name: str, candidates: tuple[Candidate, ...]) -> Future[str]:
        """Compile candidates of a task into one file; the future holds its path, or what went wrong."""
        path = str(self.folder / f"{name}_{next(self._numbers)}")
        future: Future[str] = self._pool.submit(compile_candidates, str(self.folder / name), candidates, path)
        return future

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()


@derived_object
class Builder(PyBuilder):  # type: ignore[misc]
    """Compiles candidates, several at once."""

    def __init__(self, workshop: Workshop) -> None:
        super().__init__()
        self._workshop = workshop

    def build(self, build_inputs: Sequence[BuilderInput]) -> list[BuilderResult]:
        """Files of compiled candidates, or messages; a candidate that does not compile is written down as failed."""
        shop = self._workshop
        begun = []
        for item in build_inputs:
            name = shop.names[identity(item.mod)]
            task = shop.ledger.progress[name].task
            candidate = read_candidate(item.mod, task.spaces)
            first = shop.first(name)
            begun.append((name, candidate, first if candidate == task.guesses[0] else shop.compile(name, (candidate,))))
        return [self._result(*entry) for entry in begun]

    def _result(self, name: str, candidate: Candidate, future: Future[str]) -> BuilderResult:
        shop = self._workshop
        if shop.control.interrupted:
            future.cancel()
            return BuilderResult(None, STOPPED)
        failure = failure_of(future)
        if failure is not None:
            if not shop.control.interrupted:
                note(shop, name, candidate, None, f"it does not compile: {failure}")
            return BuilderResult(None, failure)
        path = future.result()
        shop.made[path] = (name, candidate)
        return BuilderResult(path, None)


def failure_of(future: Future[str]) -> str | None:
    """Why a compilation failed, in a line; None if it did not."""
    error = future.exception()
    if error is None:
        return None
    if isinstance(error, TimeoutError):
        return "it took too long"
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@derived_object
class Runner(PyRunner):  # type: ignore[misc]
    """Runs compiled candidates and writes their times down at once.

    Args:
        workshop: that compiled them.
        executor: that runs them.
    """

    def __init__(self, workshop: Workshop, executor: Executor) -> None:
        super().__init__()
        self._workshop, self._executor = workshop, executor

    def run(self, runner_inputs: Sequence[RunnerInput]) -> list[PyRunnerFuture]:
        """Begin all of them."""
        return [_Pending(self._begin(str(item.artifact_path))) for item in runner_inputs]

    def _begin(self, path: str) -> Future[Any]:
        shop = self._workshop
        name, candidate = shop.made.pop(path)
        first = None if self._stops() else self._first(name, candidate)
        if self._stops():
            stopped: Future[Any] = Future()
            stopped.set_result(None)
            return stopped
        best_s = shop.ledger.progress[name].best_s
        work = Measure(task=str(shop.folder / name), compiled=path, best_s=best_s, first=first)
        return then(self._executor.submit(work), lambda future: self._finish(name, candidate, path, future))

    def _stops(self) -> bool:
        return self._workshop.control.interrupted or self._workshop.control.failure is not None

    def _first(self, name: str, candidate: Candidate) -> First | None:
        """What to time a candidate beside; tuning ends where that was measured before, and does not compile now."""
        shop, entry = self._workshop, self._workshop.ledger.progress[name]
        if entry.start_s is None or candidate == entry.task.guesses[0]:
            return None
        future = shop.first(name)
        failure = failure_of(future)
        if failure is None:
            return First(compiled=future.result(), seconds=entry.start_s)
        shop.control.fail(
            TuningError(
                f"node {entry.task.layers[0]!r}: found the cost table's kernel, measured before, not to compile now "
                f"({failure}), expected it to; run the same command again, which goes on where this one stopped"
            )
        )
        return None

    def _finish(self, name: str, candidate: Candidate, path: str, future: Future[Reading]) -> Any:
        """Writes a trial down; gives its time, or the message of its failure."""
        if candidate != self._workshop.ledger.progress[name].task.guesses[0]:
            Path(path).unlink()
        error = future.exception()
        if error is None:
            seconds = future.result().seconds
            note(self._workshop, name, candidate, seconds, "")
            return seconds
        if isinstance(error, NowhereError):
            self._workshop.control.fail(error)
        elif not isinstance(error, LQCompileError):
            raise error
        if self._workshop.control.failure is None:
            note(self._workshop, name, candidate, None, str(error))
        return str(error)


@derived_object
class _Pending(PyRunnerFuture):  # type: ignore[misc]
    """A candidate that runs: its future holds seconds, a message, or None for one that never began."""

    def __init__(self, future: Future[Any]) -> None:
        super().__init__()
        self._future = future

    def done(self) -> bool:
        """Whether it has run."""
        return self._future.done()

    def result(self) -> RunnerResult:
        """Wait for it."""
        found = self._future.result()
        if isinstance(found, float):
            return RunnerResult([found], None)
        return RunnerResult(None, found or STOPPED)


def note(shop: Workshop, name: str, candidate: Candidate, seconds: float | None, failure: str) -> None:
    """Write a trial down; tuning ends where that is not possible."""
    try:
        shop.ledger.write(name, candidate, seconds, failure)
    except LQCompileError as error:
        shop.control.fail(error)


def then(future: Future[Any], finish: Callable[[Future[Any]], Any]) -> Future[Any]:
    """A future of what `finish` makes of a finished one, in the thread that finished it."""
    following: Future[Any] = Future()

    def follow(done: Future[Any]) -> None:
        try:
            following.set_result(finish(done))
        except Exception as error:  # noqa: BLE001 - it is raised again where the result is asked for
            following.set_exception(error)

    future.add_done_callback(follow)
    return following
