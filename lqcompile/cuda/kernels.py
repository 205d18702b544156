"""Candidate kernels on a GPU, to be checked and timed: what `lqcompile.kernels` is for CPUs.

A reading is the time of a graph of many launches, between two events: neither the host nor the start of the graph is
part of it. All samples of a batch hold the same values.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.cuda.driver import Gpu, Handle, Launch, Pointer
from lqcompile.cuda.engine import kernels_of, make_launch
from lqcompile.errors import DeviceError
from lqcompile.kernels import Job

READING_S = 1e-3
"""Shortest reading: events tell 0.5 us apart, and the first launch of a graph waits for the GPU."""

MOST_LAUNCHES = 500
"""Of one graph; a launch that takes less than 2 us is mostly overhead anyway."""

FIRST_LAUNCHES = 10
"""Of the graph that tells how many one reading takes."""

ALIGNMENT = 256
"""Bytes, of everything in memory."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GpuJob(Job):
    """Compiled launches; `library` is a cubin or PTX, and the ports that have contents come before all others.

    Args:
        steps: for each step its launch (`lqcompile.cuda.launches.Launches.steps`).
        single: steps that run on one sample alone: those that store integers.
        samples: that run together, where steps are timed.
    """

    steps: tuple[Mapping[str, Any], ...]
    single: frozenset[int]
    samples: int
    beside: GpuJob | None = None

    def load(self) -> GpuKernels:
        """Load it on the GPU of this machine.

        Raises:
            DeviceError: there is no GPU, or none that runs the code, or too little memory.
        """
        return GpuKernels(self, this_gpu())


@functools.cache
def this_gpu() -> Gpu:
    """The GPU of this process, opened once.

    Raises:
        DeviceError: there is none.
    """
    return Gpu()


class GpuKernels:
    """A job, loaded on a GPU; a `lqcompile.kernels.Steps`.

    Outputs of all steps share their memory, for one step runs at a time.
    """

    def __init__(self, job: GpuJob, gpu: Gpu) -> None:
        self._job, self._gpu = job, gpu
        self._beside = None if job.beside is None else GpuKernels(job.beside, gpu)
        self._held: list[Pointer] = []
        self._module: Handle | None = None
        self._graphs: dict[int, tuple[Handle, int]] = {}
        gpu.enter()
        self._module = gpu.load(job.library, "kernels")
        self._functions = {name: gpu.function(self._module, name) for name in kernels_of(job.steps)}
        self._pointers = {("arena", 0): self._allocate(job.samples * job.arena_bytes)}
        self._pointers["params", 0] = self._allocate(len(job.parameters))
        gpu.write(self._pointers["params", 0], job.parameters)
        held = [np.tile(job.contents[port], job.samples) for port in range(len(job.contents))]
        for port, values in enumerate(held):
            self._pointers["input", port] = self._allocate(values.nbytes)
            gpu.write(self._pointers["input", port], values)
        places, size = self._places()
        start = self._allocate(size)
        self._pointers |= {key: start + place for key, place in places.items()}
        gpu.wait()

    def run(self, step: int, port: int) -> npt.NDArray[Any]:
        """Run a step on one sample; gives what it left in a port."""
        self._gpu.enter()
        dtype, size = self._job.ports[port]
        result = np.empty(size, dtype)
        self._gpu.launch(self._launch(step, samples=1))
        self._gpu.read(result, self._pointers["output", port - len(self._job.contents)])
        self._gpu.wait()
        return result

    def times(self, steps: Sequence[int], rounds: int, beside: Sequence[int] = ()) -> list[list[float]]:
        """Seconds of one launch of each step for all samples, in each of the rounds, interleaved.

        Returns:
            [steps, then those of the job beside][rounds].
        """
        self._gpu.enter()
        graphs = [self._graph(step) for step in steps]
        if self._beside is not None:
            graphs += [self._beside._graph(step) for step in beside]
        found: list[list[float]] = [[] for _ in graphs]
        for turn in range(rounds):
            for place in range(len(graphs)):
                index = (place + turn) % len(graphs)
                graph, launches = graphs[index]
                found[index].append(self._gpu.seconds(graph) / launches)
        return found

    def close(self) -> None:
        """Gives everything on the GPU back."""
        self._gpu.enter()
        for graph, _ in self._graphs.values():
            self._gpu.drop(graph)
        for pointer in self._held:
            self._gpu.free(pointer)
        if self._module is not None:
            self._gpu.unload(self._module)
        self._graphs, self._held, self._module = {}, [], None

    def __del__(self) -> None:
        """The driver itself gives back what a process held when it ends."""
        if not sys.is_finalizing():
            with contextlib.suppress(DeviceError):  # after a kernel failed, everything fails; that was told before
                self.close()

    def _graph(self, step: int) -> tuple[Handle, int]:
        """A graph of as many launches of a step as one reading takes, warmed up, and how many those are."""
        if step not in self._graphs:
            launch = self._launch(step, samples=self._job.samples)
            short = self._gpu.capture([launch] * FIRST_LAUNCHES)
            self._gpu.seconds(short)
            each = self._gpu.seconds(short) / FIRST_LAUNCHES
            self._gpu.drop(short)
            launches = min(max(1, math.ceil(READING_S / max(each, 1e-9))), MOST_LAUNCHES)
            self._graphs[step] = (self._gpu.capture([launch] * launches), launches)
            self._gpu.seconds(self._graphs[step][0])
        return self._graphs[step]

    def _launch(self, step: int, samples: int) -> Launch:
        entry = self._job.steps[step]
        return make_launch(entry, self._functions, self._pointers, batch=self._job.samples, samples=samples)

    def _places(self) -> tuple[dict[tuple[str, int], int], int]:
        """Where the outputs of each step lie in the memory that steps share, and its size."""
        places: dict[tuple[str, int], int] = {}
        most = 1
        for number, step in enumerate(self._job.steps):
            samples = 1 if number in self._job.single else self._job.samples
            size = 0
            for where, index in step["arguments"]:
                if where == "output":
                    places[where, index] = size
                    dtype, count = self._job.ports[index + len(self._job.contents)]
                    size += -(-samples * count * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
            most = max(most, size)
        return places, most

    def _allocate(self, size: int) -> Pointer:
        self._held.append(self._gpu.allocate(size))
        return self._held[-1]
