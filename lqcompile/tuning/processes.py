"""Processes that compile and run candidates on this machine: one that crashes or hangs takes nothing along."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Protocol

from tvm.support.popen_pool import PopenPoolExecutor, PopenWorker

from lqcompile.conditions import conditions
from lqcompile.errors import DeviceError, LQCompileError, TuningError
from lqcompile.kernels import Job, Steps
from lqcompile.tuning.work import Work

RUN_S = 60.0
"""Longest run of a candidate, its readings and pauses included."""

COMPILE_S = 120.0
"""Longest compilation of a candidate."""

RECYCLED = 400
"""Compilations after which a process is replaced: LLVM gives not all of its memory back."""


class NowhereError(TuningError):
    """There is nothing left that could run candidates: tuning ends, and no candidate is to blame."""


class Executor(Protocol):
    """Runs work somewhere."""

    def submit(self, work: Work) -> Future[Any]:
        """Begin; the future holds what `work.run` gives, or an `LQCompileError` that says why there is nothing."""

    def names(self) -> list[str]:
        """What runs work now, for people."""

    def close(self) -> None:
        """Stop."""


class ThisMachine:
    """A site: the process itself."""

    def open(self, job: Job) -> Steps:
        """Load compiled candidates."""
        return job.load()

    def state(self) -> dict[str, Any]:
        """The state of this machine."""
        return conditions()


class OneProcess:
    """Runs work in one other process of this machine, and waits for it: nothing else may run while it is timed.

    After an error of a GPU's driver the process is replaced: a kernel that fails leaves the GPU useless to it.
    """

    def __init__(self) -> None:
        self._worker = PopenWorker()

    def submit(self, work: Work) -> Future[Any]:
        """Run it."""
        future: Future[Any] = Future()
        try:
            with interrupts_blocked():
                self._worker.send(_run_here, (work,), timeout=RUN_S)
            found = self._worker.recv()
        except TimeoutError:
            self._worker.kill()
            future.set_exception(TuningError(f"it ran for more than {RUN_S:g} s"))
        except ChildProcessError:
            self._worker.kill()
            future.set_exception(TuningError("it crashed the process that ran it"))
        else:
            if isinstance(found, DeviceError):
                self._worker.kill()
            if isinstance(found, LQCompileError):
                future.set_exception(found)
            else:
                future.set_result(found)
        return future

    def names(self) -> list[str]:
        """This machine."""
        return ["this machine"]

    def close(self) -> None:
        """End the process."""
        self._worker.kill()


class CompilePool(PopenPoolExecutor):  # type: ignore[misc]
    """Processes that compile.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(max_workers=workers, timeout=COMPILE_S, maximum_process_uses=RECYCLED)

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Call a function in one of them. The thread that will start the process may begin here."""
        with interrupts_blocked():
            future: Future[Any] = super().submit(function, *arguments)
        return future


@contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes and threads that begin inside never see Ctrl-C: it is for the program, which ends them in order.

    A blocked signal is inherited over fork and exec, so that not even the first lines of a process can meet it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_here(work: Work) -> Any:
    """Runs in the other process: what lqcompile refuses comes back as a value, since messages are for people."""
    try:
        return work.run(ThisMachine())
    except LQCompileError as error:
        return error
