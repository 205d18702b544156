"""Kernels outside of a network, to be checked and timed: steps of a library, with memory for what they read and write.

TVM's runtime and NumPy are all it takes, so that boards can do it too. GPUs: `lqcompile.cuda.kernels`.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tvm_ffi

from lqcompile.runtime import aligned, aligned_copy, using_threads
from lqcompile.timing import Stopwatch
from lqcompile.tvm_runtime import load_module


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """Compiled steps of a driver (`lqcompile.lowering.driver`).

    Args:
        library: shared library with the function ``run``.
        ports: dtype and elements of each input and output, in the order of the driver's.
        contents: port to its bytes, for ports that steps read.
        arena_bytes: size of the arena.
        parameters: packed constants.
        beside: another one, loaded along with it, whose steps are timed in turn with its own.
    """

    library: bytes
    ports: tuple[tuple[str, int], ...]
    contents: Mapping[int, npt.NDArray[np.uint8]]
    arena_bytes: int
    parameters: npt.NDArray[np.uint8]
    beside: Job | None = None

    def load(self) -> Steps:
        """Load it on this machine."""
        return Kernels(self)


class Steps(Protocol):
    """A job, loaded somewhere; on CPUs all runs on one thread."""

    def run(self, step: int, port: int) -> npt.NDArray[Any]:
        """Run a step; gives what it left in a port."""

    def times(self, steps: Sequence[int], rounds: int, beside: Sequence[int] = ()) -> list[list[float]]:
        """Seconds of one call of each step, in each of the rounds, interleaved: [steps, then those beside][rounds].

        Args:
            steps: of the job.
            rounds: readings of each.
            beside: steps of the job beside it.
        """


class Kernels:
    """A job, loaded on this machine."""

    def __init__(self, job: Job) -> None:
        with tempfile.TemporaryDirectory(prefix="lqcompile-") as folder:
            path = Path(folder) / "kernels.so"
            path.write_bytes(job.library)
            self._run = load_module(path)["run"]
        self._memory = [aligned(np.dtype(dtype).itemsize * size).view(dtype) for dtype, size in job.ports]
        for port, content in job.contents.items():
            self._memory[port].view(np.uint8)[:] = content
        arrays = [*(array.reshape(1, -1) for array in self._memory), aligned(job.arena_bytes)]
        arrays.append(aligned_copy(job.parameters))
        self._warm: tuple[list[str], Stopwatch] | None = None
        """What was timed last, which need not be warmed up again."""
        self._beside = None if job.beside is None else Kernels(job.beside)
        self._ports = [tvm_ffi.from_dlpack(array) for array in arrays]

    def run(self, step: int, port: int) -> npt.NDArray[Any]:
        """Run a step; gives what it left in a port."""
        with using_threads(1):
            self._call(step)()
        return self._memory[port].copy()

    def times(self, steps: Sequence[int], rounds: int, beside: Sequence[int] = ()) -> list[list[float]]:
        """Seconds of one call of each step, in each of the rounds, interleaved: [steps, then those beside][rounds]."""
        calls = {f"own {step}": self._call(step) for step in steps}
        if self._beside is not None:
            calls |= {f"beside {step}": self._beside._call(step) for step in beside}
        with using_threads(1):
            if self._warm is None or self._warm[0] != list(calls):
                self._warm = (list(calls), Stopwatch(calls))
            readings = [self._warm[1].round() for _ in range(rounds)]
        return [[entry[name] for entry in readings] for name in calls]

    def _call(self, step: int) -> Callable[[], Any]:
        return functools.partial(self._run, *self._ports, step, step + 1)
