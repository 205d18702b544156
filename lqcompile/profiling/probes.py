"""Code that measures a machine: a chain of dependent instructions, and a loop that reads memory.

It is compiled here and runs wherever an artifact for the same target runs (`lqcompile.profiling.machine`).
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lqcompile.codegen import compile_driver, link
from lqcompile.lowering.driver import Driver
from lqcompile.profiling.machine import CHAIN, STREAM, STREAM_BLOCK, STREAM_VECTORS, UNROLLED
from lqcompile.schedules.isa import registers, zeros
from lqcompile.target import Target

_VECTOR_BYTES = STREAM_BLOCK // STREAM_VECTORS


def probe_library(target: Target) -> bytes:
    """The shared library for `lqcompile.profiling.machine.measure_machine`.

    Args:
        target: without variants.

    Raises:
        BuildError: TVM cannot compile for the target.
    """
    functions = {tvm.ir.GlobalVar(name): make() for name, make in ((CHAIN, _chain), (STREAM, _stream))}
    driver = Driver(module=tvm.IRModule(functions), parameters=b"", arena_bytes=0, offsets={}, regions=())
    return link(compile_driver(driver, target), target)


def _chain() -> Any:
    """``chain(state, turns)``: v = (v + a) ^ b, `UNROLLED` times a turn; two instructions that wait for one another."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name(CHAIN)
        T.func_attr({"global_symbol": CHAIN})
        state = T.arg("state", T.buffer((3,), "int64"))
        turns = T.arg("turns", T.int64())
        value = registers(1, "int64")
        T.buffer_store(value, state[0], [0])
        with T.serial(0, turns):
            for _ in range(UNROLLED):
                T.buffer_store(value, T.bitwise_xor(value[0] + state[1], state[2]), [0])
        T.buffer_store(state, value[0], [0])
    return builder.get()


def _stream() -> Any:
    """``stream(data, out, threads, repeats)``: each thread reads its part of `data` again and again."""
    lanes = _VECTOR_BYTES // 4
    with IRBuilder() as builder, T.prim_func():
        T.func_name(STREAM)
        T.func_attr({"global_symbol": STREAM, "tirx.noalias": True})
        size = tvm.ir.Var("size", tvm.ir.PrimType("int64"))
        held = tvm.ir.Var("held", tvm.ir.PrimType("int64"))
        data = T.match_buffer(T.arg("data", T.handle()), (size,), "uint32", align=64)
        out = T.match_buffer(T.arg("out", T.handle()), (held,), "uint32", align=64)
        threads = T.arg("threads", T.int64())
        repeats = T.arg("repeats", T.int64())
        blocks = tirx.truncdiv(size, threads * (STREAM_BLOCK // 4))
        with T.parallel(0, threads) as thread:
            sums = zeros(STREAM_VECTORS, f"uint32x{lanes}")
            with T.serial(0, repeats), T.serial(0, blocks) as block:
                for index in range(STREAM_VECTORS):
                    first = ((thread * blocks + block) * STREAM_VECTORS + index) * lanes
                    read = data[T.ramp(first, 1, lanes)]
                    T.buffer_store(sums, T.bitwise_xor(sums[index], read), [index])
            for index in range(STREAM_VECTORS):
                place = (thread * STREAM_VECTORS + index) * lanes
                T.buffer_store(out, sums[index], [T.ramp(place, 1, lanes)])
    return builder.get()
