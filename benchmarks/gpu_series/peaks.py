"""Measuring what a GPU can do at most: products in a second, and bytes of its memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpu_series.peak_kernels import COPY, FP16, THREADS, VECTORS, Peak, architecture, peaks_of, source
from lqcompile.cuda.driver import Gpu, Handle, Launch
from lqcompile.cuda.nvrtc import compile_cuda

READING_S = 0.02
"""Of one reading of products, about."""

RESIDENT = 4
"""Blocks for each multiprocessor, of `mma`; a block of `wgmma` has one to itself."""

MEMORY_BLOCKS = 8
"""Likewise, of kernels of memory."""

MEMORY_BYTES = 4 << 30
"""That one reading of memory reads, or half of the free memory."""

DATA_WORDS = 1 << 16
"""Random words that products start from."""


def measure_peaks(gpu: Gpu, rounds: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """The peaks of a GPU.

    Args:
        gpu: it.
        rounds: readings of each; the best counts, and the median is given.
        tell: called with what is done.

    Returns:
        name of a kernel to ``what``, ``unit`` (``MAC/s`` or ``bytes/s``), ``best`` and ``median``.
    """
    gpu.enter()
    known, machine_code = peaks_of(gpu.capability), architecture(gpu.capability)
    tell(f"peaks: compiling {len(known)} kernels for {machine_code}")
    module = gpu.load(compile_cuda(source(known), machine_code).data, "peak kernels")
    found = {}
    for peak in known:
        tell(f"peaks: {peak.what}")
        function = gpu.function(module, peak.name)
        work, times = _products(gpu, peak, function, rounds) if peak.macs else _memory(gpu, peak, function, rounds)
        found[peak.name] = {
            "what": peak.what,
            "unit": "MAC/s" if peak.macs else "bytes/s",
            "best": work / min(times),
            "median": work / float(np.median(times)),
        }
    gpu.unload(module)
    return found


def _products(gpu: Gpu, peak: Peak, function: Handle, rounds: int) -> tuple[float, Sequence[float]]:
    """Multiply-accumulates of a launch, and seconds."""
    blocks = gpu.multiprocessors * (1 if peak.hopper else RESIDENT)
    data = np.random.default_rng(0).integers(0, 1 << 32, DATA_WORDS, np.uint32)
    if peak.name.startswith(FP16):
        data = np.random.default_rng(0).normal(size=2 * DATA_WORDS).astype(np.float16).view(np.uint32)
    results, held = gpu.allocate(4 * blocks * THREADS), gpu.allocate(data.nbytes)
    gpu.write(held, data)
    gpu.wait()
    few = 100
    taken = min(_seconds(gpu, function, blocks, (results, held), few, 3))
    turns = max(few, int(few * READING_S / taken))
    times = _seconds(gpu, function, blocks, (results, held), turns, rounds)
    gpu.free(results)
    gpu.free(held)
    return peak.macs * blocks * turns, times


def _memory(gpu: Gpu, peak: Peak, function: Handle, rounds: int) -> tuple[float, Sequence[float]]:
    """Bytes that a launch moves, and seconds."""
    blocks = gpu.multiprocessors * MEMORY_BLOCKS
    each = 16 * VECTORS * THREADS * blocks
    copies = peak is COPY
    turns = max(1, min(MEMORY_BYTES, gpu.free_bytes() // 2) // (2 if copies else 1) // each)
    data, results = gpu.allocate(turns * each), gpu.allocate(turns * each if copies else 16 * THREADS * blocks)
    times = _seconds(gpu, function, blocks, (results, data), turns, rounds)
    gpu.free(data)
    gpu.free(results)
    return turns * each * (2 if copies else 1), times


def _seconds(
    gpu: Gpu, function: Handle, blocks: int, pointers: tuple[int, int], turns: int, rounds: int
) -> Sequence[float]:
    launch = Launch(function=function, blocks=(blocks, 1), threads=(THREADS, 1), pointers=pointers, samples=turns)
    graph = gpu.capture([launch])
    times = [gpu.seconds(graph) for _ in range(rounds + 1)]
    gpu.drop(graph)
    return times[1:]  # the first warms up
