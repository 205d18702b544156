"""What a layer could take at best: its multiply-accumulates at the arithmetic ports, its weights at the memory bus."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lqcompile.profiling.bounds import passes_of
from lqcompile.target import find

CYCLES_PER_STEP = 4
"""A multiplication (3) and an addition (1) that wait for one another, on every x86 since 2008."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What was measured of the machine.

    Args:
        clock_hz: of one core under load.
        bytes_per_s: of one core reading memory.
        cache_bytes: of the last-level cache: weights of fewer bytes may stay there from one run to the next.
    """

    clock_hz: float
    bytes_per_s: float
    cache_bytes: int


def measure_machine() -> Machine:
    """Clock from a chain of dependent instructions, bandwidth from summing 256 MB; the best of many short readings.

    Best, because bounds are what nothing can beat; short, so that some fall between the turns of other programs.
    """
    chain, steps = _chain(), 1 << 14
    state = tvm.runtime.tensor(np.array([3, 5, 7], np.int64))
    clock = max(CYCLES_PER_STEP * 16 * steps / _seconds(lambda: chain(state, steps)) for _ in range(200))
    blocks = np.ones((64, 1 << 19), np.float64)
    bandwidth = max(block.nbytes / _seconds(lambda block=block: float(np.add.reduce(block))) for block in blocks)
    return Machine(clock_hz=clock, bytes_per_s=bandwidth, cache_bytes=_last_cache_bytes())


def bound_us(
    layer: dict[str, Any], macs: int, weight_bytes: int, target: str, machine: Machine, threads: int
) -> float | None:
    """Least time of a contraction in microseconds; None where the target has no peak for its inner loop.

    Args:
        layer: manifest entry.
        macs: multiply-accumulates.
        weight_bytes: packed weights.
        target: name of the target.
        machine: clock and bandwidth.
        threads: cores that share the work (but not the bandwidth).
    """
    peak = find(target).peaks.get(layer["loop"])
    if peak is None:
        return None
    arithmetic = macs * passes_of(layer) / (peak * machine.clock_hz * threads)
    memory = weight_bytes / machine.bytes_per_s if weight_bytes > machine.cache_bytes else 0.0
    return 1e6 * max(arithmetic, memory)


def _last_cache_bytes() -> int:
    """As Linux says, such as ``32768K``."""
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return max((int(path.read_text(encoding="utf-8").strip().removesuffix("K")) << 10 for path in sizes), default=0)


def _chain() -> Any:
    """16 dependent steps ``v = v * a + b`` per turn of a loop."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("chain")
        T.func_attr({"global_symbol": "chain"})
        state = T.arg("state", T.buffer((3,), "int64"))
        steps = T.arg("steps", T.int64())
        value = T.alloc_buffer((1,), "int64", annotations={"disable_lower_builtin": True})
        T.buffer_store(value, state[0], [0])
        with T.serial(0, steps):
            for _ in range(16):
                T.buffer_store(value, value[0] * state[1] + state[2], [0])
        T.buffer_store(state, value[0], [0])
    return tvm.compile(tvm.IRModule({"chain": builder.get()}), target="llvm")["chain"]


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
