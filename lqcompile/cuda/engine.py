"""The steps of a network on a GPU, with the entry points that libraries of CPUs have: ``run`` and ``sums``."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.cuda.driver import Gpu, Handle, Launch, Pointer
from lqcompile.errors import DeviceError, InputError

Array = npt.NDArray[Any]

MOST_SAMPLES = 256
"""Samples that go through the network together; more do not fill a GPU better."""

MEMORY_SHARE = 0.8
"""Part of the free memory that a batch may take."""

LANES = 32
"""Threads of a warp."""

LARGEST = 1 << 30
"""Elements, and threads, that kernels can number (`lqcompile.cuda.launches`)."""


@dataclass(kw_only=True, eq=False)
class Memory:
    """Memory of a batch.

    Args:
        samples: that fit.
        pointers: of ``arena``, of ``input`` and ``output`` by number, and of ``params``.
        graphs: ready to start, by number of samples, first and last step, and how many times over.
    """

    samples: int
    pointers: dict[tuple[str, int], Pointer]
    graphs: dict[tuple[int, int, int, int], Handle] = field(default_factory=dict)


class Engine:
    """A loaded variant.

    Args:
        variant: of the manifest.
        sizes: elements of each input, and of each output, of one sample.
        code: cubin or PTX.
        params: packed constants.
        gpu: that runs it.
        subject: the artifact, for messages.
    """

    def __init__(
        self,
        variant: Mapping[str, Any],
        sizes: tuple[Sequence[int], Sequence[int]],
        code: bytes,
        params: bytes,
        gpu: Gpu,
        subject: str,
    ) -> None:
        self._memory: Memory | None = None
        self._params: Pointer | None = None
        self._module: Handle | None = None
        self.gpu = gpu
        self.launches: Mapping[str, Any] = variant["launches"]
        self._arena_bytes = int(variant["arena_bytes"])
        self._ports = {("input", index): size for index, size in enumerate(sizes[0])}
        self._ports |= {("output", index): size for index, size in enumerate(sizes[1])}
        gpu.enter()
        self._module = gpu.load(code, subject)
        entries = [*self.launches["steps"], *self.launches["sums"]]
        self._functions = {name: gpu.function(self._module, name) for name in kernels_of(entries)}
        self._params = gpu.allocate(len(params))
        gpu.write(self._params, np.frombuffer(params, np.uint8))
        gpu.wait()

    def close(self) -> None:
        """Gives everything on the GPU back; the engine runs nothing after that."""
        self.gpu.enter()
        self._release()
        if self._params is not None:
            self.gpu.free(self._params)
        if self._module is not None:
            self.gpu.unload(self._module)
        self._params = self._module = None

    def __del__(self) -> None:
        """The driver itself gives back what a process held when it ends."""
        if not sys.is_finalizing():
            with contextlib.suppress(DeviceError):  # after a kernel failed, everything fails; that was told before
                self.close()

    def run(self, *arguments: Any) -> None:
        """``run(inputs..., outputs..., arena, params, first, last)`` as on CPUs: steps of one or all samples.

        The arena is that of one sample: it goes to the GPU and comes back unless the whole network runs.
        """
        *ports, arena, _, first, last = arguments
        arrays = [np.from_dlpack(port) for port in ports]
        if (first, last) == (0, len(self.launches["steps"])):
            self.bind(arrays)()
            return
        held = np.from_dlpack(arena)
        memory = self._reserve(1)
        self.gpu.write(memory.pointers["arena", 0], held)
        self.steps(arrays, first, last)()
        self.gpu.read(held, memory.pointers["arena", 0])
        self.gpu.wait()

    def sums(self, *arguments: Any) -> None:
        """``sums(arena, params, out, index)`` as on CPUs: the integers of one contraction, of one sample."""
        arena, _, out, index = arguments
        held, result = np.from_dlpack(arena), np.from_dlpack(out)
        memory = self._reserve(1)
        self.gpu.write(memory.pointers["arena", 0], held)
        memory.pointers["sums", 0] = self.gpu.allocate(result.nbytes)
        try:
            self.gpu.launch(self._launch(self.launches["sums"][index], memory, batch=1, samples=1))
            self.gpu.read(result, memory.pointers["sums", 0])
            self.gpu.wait()
        finally:
            self.gpu.free(memory.pointers.pop(("sums", 0)))

    def bind(self, arrays: Sequence[Array]) -> Callable[[], None]:
        """A call that runs the whole network on contiguous arrays[N, elements]: inputs, then outputs to fill.

        Samples go through the network in batches; the launches of a batch are one graph.
        """
        count = len(arrays[0])
        batch = self._reserve(count).samples

        def call() -> None:
            self.gpu.enter()  # this may be another thread
            for first in range(0, count, batch):
                samples = min(batch, count - first)
                parts = [array[first : first + samples] for array in arrays]
                self._write_inputs(parts)
                self.gpu.start(self._graph(samples))
                self._read_outputs(parts)
            self.gpu.wait()

        return call

    def starter(self, samples: int) -> Callable[[], None]:
        """A call that runs the network on what the inputs on the GPU hold, and copies nothing, for timing.

        Raises:
            InputError: the memory that is reserved holds fewer samples; bind as many first.
        """
        self._check_room(samples)
        graph = self._graph(samples)

        def call() -> None:
            self.gpu.start(graph)
            self.gpu.wait()

        return call

    def seconds(self, samples: int, first: int, last: int, repeats: int) -> float:
        """Time on the GPU of steps `first` to `last - 1`, on what the arena holds.

        Args:
            samples: that they compute.
            first: step.
            last: the step behind them.
            repeats: how many times over the graph that is timed runs them, so that its own start counts for little.

        Raises:
            InputError: the memory that is reserved holds fewer samples; bind as many first.
        """
        self._check_room(samples)
        return self.gpu.seconds(self._graph(samples, (first, last), repeats)) / repeats

    @property
    def room(self) -> int:
        """Samples that the memory holds that is reserved."""
        return 0 if self._memory is None else self._memory.samples

    def steps(self, arrays: Sequence[Array], first: int, last: int) -> Callable[[], None]:
        """A call that runs steps `first` to `last - 1` on one sample, with what the arena on the GPU holds."""
        memory = self._reserve(1)
        launches = [self._launch(entry, memory, batch=1, samples=1) for entry in self.launches["steps"][first:last]]
        self._write_inputs(arrays)

        def call() -> None:
            if memory is not self._memory:
                raise InputError("steps: found a larger batch since they were bound, expected none; bind them again")
            for launch in launches:
                self.gpu.launch(launch)
            self._read_outputs(arrays)
            self.gpu.wait()

        return call

    def _write_inputs(self, arrays: Sequence[Array]) -> None:
        pointers = self._held().pointers
        for port, array in zip(self._ports, arrays, strict=True):
            if port[0] == "input":
                self.gpu.write(pointers[port], array)

    def _read_outputs(self, arrays: Sequence[Array]) -> None:
        pointers = self._held().pointers
        for port, array in zip(self._ports, arrays, strict=True):
            if port[0] == "output":
                self.gpu.read(array, pointers[port])

    def _held(self) -> Memory:
        if self._memory is None:
            raise TypeError("memory is reserved before it is used")
        return self._memory

    def _reserve(self, samples: int) -> Memory:
        """Memory for a batch of `samples`, or of as many as fit."""
        self.gpu.enter()
        if samples < 1:
            raise InputError("inputs: found no samples, expected at least one")
        wanted = min(samples, MOST_SAMPLES, max(1, LARGEST // int(self.launches["largest"])))
        if self._memory is not None and self._memory.samples >= wanted:
            return self._memory
        self._release()
        if self._params is None:
            raise InputError("model: found it closed, expected an open one; load it again")
        each = self._arena_bytes + 4 * sum(self._ports.values())
        wanted = max(1, min(wanted, int(MEMORY_SHARE * self.gpu.free_bytes()) // each))
        self._memory = memory = Memory(samples=wanted, pointers={("params", 0): self._params})
        try:
            memory.pointers["arena", 0] = self.gpu.allocate(wanted * self._arena_bytes)
            for port, size in self._ports.items():
                memory.pointers[port] = self.gpu.allocate(4 * wanted * size)
        except DeviceError:
            self._release()
            raise
        return memory

    def _release(self) -> None:
        if self._memory is not None:
            for graph in self._memory.graphs.values():
                self.gpu.drop(graph)
            for (kind, _), pointer in self._memory.pointers.items():
                if kind != "params":
                    self.gpu.free(pointer)
            self._memory = None

    def _check_room(self, samples: int) -> None:
        if self.room < samples:
            raise InputError(f"samples: found room for fewer than {samples}, expected a call of `bind` with as many")

    def _graph(self, samples: int, part: tuple[int, int] | None = None, repeats: int = 1) -> Handle:
        """A graph of the whole network, or of a part of its steps, some times over."""
        memory, steps = self._held(), self.launches["steps"]
        first, last = part or (0, len(steps))
        key = (samples, first, last, repeats)
        if key not in memory.graphs:
            launches = [
                self._launch(entry, memory, batch=memory.samples, samples=samples) for entry in steps[first:last]
            ]
            memory.graphs[key] = self.gpu.capture(launches * repeats)
        return memory.graphs[key]

    def _launch(self, entry: Mapping[str, Any], memory: Memory, *, batch: int, samples: int) -> Launch:
        """The launch of a step for `samples`, in an arena that is laid out for a `batch`."""
        return make_launch(entry, self._functions, memory.pointers, batch=batch, samples=samples)


def kernels_of(entries: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the kernels of steps, those for few samples included."""
    return {sized["kernel"] for entry in entries for sized in (entry, entry.get("fewer", entry))}


def make_launch(
    entry: Mapping[str, Any],
    functions: Mapping[str, Handle],
    pointers: Mapping[tuple[str, int], Pointer],
    *,
    batch: int,
    samples: int,
) -> Launch:
    """The launch of a step, with the kernel for so many samples.

    Args:
        entry: of the manifest (`lqcompile.cuda.launches.Launches.steps`).
        functions: kernels by name.
        pointers: of ``arena`` and ``params`` (number 0), and of the other places by number.
        batch: samples that the arena is laid out for.
        samples: to compute.
    """
    if "fewer" in entry and samples <= entry["fewer"]["samples"]:
        entry = {**entry, **entry["fewer"]}
    found = []
    for where, place in entry["arguments"]:
        if where == "arena":
            found.append(pointers[where, 0] + place * batch)
        elif where == "params":
            found.append(pointers[where, 0] + place)
        else:
            found.append(pointers[where, place])
    return Launch(
        function=functions[entry["kernel"]],
        blocks=(-(-samples * entry["rows"] // entry["tile"]), entry["columns"]),
        threads=(LANES, entry["warps"]),
        pointers=tuple(found),
        samples=samples,
    )
