"""What a machine can do at best: clock and bandwidths, measured with the code of `lqcompile.profiling.probes`.

TVM's runtime and NumPy are all it takes, so that boards can do it too. The best of many short readings counts: a bound
is what nothing can beat, and short readings fall between the turns of other programs.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm_ffi

from lqcompile.profiling.caches import MEMORY, Cache, read_caches
from lqcompile.runtime import aligned, using_threads
from lqcompile.tvm_runtime import load_module

CHAIN, STREAM = "chain", "stream"
"""Names of the functions."""

UNROLLED = 16
"""Steps of the chain in one turn; each takes two cycles, an addition and an exclusive or, on every processor here."""

STREAM_VECTORS, STREAM_BLOCK = 8, 512
"""Vectors that are read at a time, and their bytes."""

_TURNS = 1 << 13
"""Of the chain in one reading."""

_READ_BYTES = 16 << 20
"""A reading of a bandwidth reads so many bytes at least."""

_READINGS, _LONGEST_S = 200, 0.2
"""Readings of one figure, unless they have taken so long before."""

_BEYOND = 4
"""Memory is read in a piece so many times the last cache, within the limits below."""

_LEAST_MEMORY, _MOST_MEMORY = 64 << 20, 512 << 20


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured of a machine, or what the driver of a GPU tells of it.

    Args:
        clock_hz: of one core under load; of a GPU the highest.
        caches: from the closest on; empty where the system does not tell.
        bytes_per_s: name of a level (``L1``, ..., ``memory``) to what all threads together read from it; of a GPU only
            its memory is known.
        threads: that read; of a GPU the multiprocessors.
        os: operating system and its release.
    """

    clock_hz: float
    caches: tuple[Cache, ...]
    bytes_per_s: Mapping[str, float]
    threads: int
    os: str

    def to_json(self) -> dict[str, Any]:
        """Stable keys."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Machine:
        """The machine that `to_json` told of."""
        return cls(**{**value, "caches": tuple(Cache(**cache) for cache in value["caches"])})


def measure_machine(library: Path, threads: int, caches: Sequence[Cache] | None = None) -> Machine:
    """Measure this machine.

    Args:
        library: that `lqcompile.profiling.probes.probe_library` made for it.
        threads: that read memory together.
        caches: of this machine; None asks the system.
    """
    module = load_module(library)
    known = tuple(read_caches() if caches is None else caches)
    state = aligned(24).view(np.int64)
    state[:] = 3, 5, 7
    chain, held = module[CHAIN], tvm_ffi.from_dlpack(state)
    clock = 2 * UNROLLED * _TURNS / _least_s(lambda: chain(held, _TURNS))
    largest = _memory_bytes(known)
    data = aligned(largest)
    data[:] = 1  # pages of zeros would be one and the same
    with using_threads(threads):
        bandwidths = {cache.name: _bandwidth(module[STREAM], data[: _part(cache, threads)], threads) for cache in known}
        bandwidths[MEMORY] = _bandwidth(module[STREAM], data, threads)
    return Machine(clock_hz=clock, caches=known, bytes_per_s=bandwidths, threads=threads, os=platform.platform())


def _part(cache: Cache, threads: int) -> int:
    """Bytes that stay in a cache: half of it, for each of the threads where they have their own."""
    return cache.bytes // 2 * max(1, threads // cache.cores)


def _memory_bytes(caches: Sequence[Cache]) -> int:
    beyond = _BEYOND * max((cache.bytes for cache in caches), default=0)
    return int(np.clip(beyond, _LEAST_MEMORY, _MOST_MEMORY))


def _bandwidth(stream: Callable[..., object], data: np.ndarray[Any, np.dtype[np.uint8]], threads: int) -> float:
    """Bytes per second of the fastest of some readings."""
    blocks = data.size // (STREAM_BLOCK * threads)
    size = blocks * STREAM_BLOCK * threads
    repeats = max(1, _READ_BYTES // size)
    source = tvm_ffi.from_dlpack(data[:size].view(np.uint32))
    target = tvm_ffi.from_dlpack(aligned(STREAM_BLOCK * threads).view(np.uint32))
    return size * repeats / _least_s(lambda: stream(source, target, threads, repeats))


def _least_s(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some calls; at least two are made, for the first finds cold caches."""
    now = time.perf_counter
    start = now()
    found: list[float] = []
    while len(found) < 2 or (len(found) < _READINGS and now() - start < _LONGEST_S):
        before = now()
        work()
        found.append(now() - before)
    return min(found)
