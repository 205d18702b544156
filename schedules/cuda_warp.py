"""A warp as a vector: 32 threads are the lanes, and what a CPU holds in a vector register they hold in their own.

Kernels are written for one thread of a warp. The lanes of a vector are output channels, so that a vote of the warp
packs 32 bits of a plane. Every index that is not a lane is the same in all threads: whole warps take each branch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .buffers import pixel_index
from .cuda_device import device_call
from .emitter import Emitter
from .formats import Format
from .isa import Expr

LANES = 32
"""Threads of a warp."""

WARPS = 4
"""Of a thread block, unless a kernel says otherwise."""

LANE, WARP, CTA, COLUMN = (tvm.ir.Var(name, tvm.ir.PrimType("int32")) for name in ("lane", "warp", "cta", "column"))
"""threadIdx.x, threadIdx.y, blockIdx.x and blockIdx.y of every kernel."""

SAMPLES = tvm.ir.Var("samples", tvm.ir.PrimType("int32"))
"""Samples of a launch: the last parameter of every kernel, which `lqcompile.cuda.source` adds."""

THREAD_INDEX = 1
"""Kind of an iteration variable that is bound to a thread (tvm.tirx.IterVar.ThreadIndex)."""


@dataclass(frozen=True, kw_only=True)
class Warp:
    """Vector operations of an NVIDIA GPU; `lanes` are the threads of a warp, `multiprocessors` those of the GPU."""

    lanes: int = LANES
    multiprocessors: int = 1

    @property
    def accumulators(self) -> int:
        """Accumulators of a thread that leave room for its operands in 128 registers."""
        return 48

    def vector(self, dtype: str) -> str:
        """Each thread has its own lane only."""
        return dtype

    def constant(self, value: float, dtype: str) -> Expr:
        """The same in each thread; float64 by its bits, for TVM 0.27 prints 15 digits into CUDA code."""
        if dtype == "float64":
            bits = int(np.float64(value).view(np.int64))
            return device_call("__longlong_as_double", T.int64(bits), dtype="float64")
        return getattr(T, dtype)(value)

    def broadcast(self, value: Expr) -> Expr:
        """Already the same in each thread."""
        return value

    def load(self, buffer: Expr, index: Expr) -> Expr:
        """Neighbouring threads read neighbouring elements."""
        return buffer[index + LANE]

    def store(self, buffer: Expr, value: Expr, index: Expr) -> None:
        """Neighbouring threads write neighbouring elements."""
        T.buffer_store(buffer, value, [index + LANE])

    def fence(self, value: Expr, dtype: str) -> Expr:  # noqa: ARG002 - CPUs need it
        """Nothing to do: the device code is compiled without contraction (`lqcompile.cuda.nvrtc`)."""
        return value

    def to_bytes(self, value: Expr) -> Expr:
        """A number of 0 to 255 as a byte."""
        return T.cast(value, "uint8")

    def movemask(self, condition: Expr) -> Expr:
        """A vote: bit l is the condition of thread l."""
        return device_call("lq_ballot", condition, dtype="uint32")


def word_at(buffer: Expr, index: Expr) -> Expr:
    """Four bytes as a uint32; as a vector load TVM 0.27 takes single bytes unless it can prove the alignment."""
    return device_call("lq_word", T.address_of(buffer[index]), dtype="uint32")


def locals_of(count: int, dtype: str, value: float | None = None) -> Expr:
    """`count` values of each thread, in registers where every index is a constant; filled with `value`, if given."""
    held = T.alloc_buffer((count,), dtype, scope="local")
    if value is not None:
        for index in range(count):
            T.buffer_store(held, getattr(T, dtype)(value), [index])
    return held


def div(dividend: Expr, divisor: Expr) -> Expr:
    """The quotient of numbers that are not negative: ``//`` would round down, which takes instructions."""
    return tirx.truncdiv(dividend, divisor)


def mod(dividend: Expr, divisor: Expr) -> Expr:
    """The remainder of numbers that are not negative."""
    return tirx.truncmod(dividend, divisor)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The threads of a launch.

    Args:
        blocks: thread blocks along x, an expression of `SAMPLES`.
        columns: thread blocks along y.
        warps: of a block.
    """

    blocks: Expr
    columns: int
    warps: int

    @property
    def warp(self) -> Expr:
        """Number of the warp among those of its column."""
        return CTA * self.warps + WARP

    @property
    def thread(self) -> Expr:
        """Number of the thread among all."""
        return ((COLUMN * self.blocks + CTA) * self.warps + WARP) * LANES + LANE

    @property
    def threads(self) -> Expr:
        """Number of threads."""
        return self.blocks * (self.columns * self.warps * LANES)


@contextmanager
def launch(rows: int, tile: int, columns: int = 1, warps: int = WARPS) -> Iterator[Grid]:
    """The body of a kernel, run by a grid of thread blocks.

    Attributes of the function say how large the grid is: blocks along x cover `rows` of each sample, `tile` rows each.
    """
    T.func_attr({"tirx.noalias": True, "rows": rows, "tile": tile, "columns": columns, "warps": warps})
    blocks = div(SAMPLES * rows + (tile - 1), tile)
    axes: dict[str, tuple[Expr, Expr]] = {
        "blockIdx.x": (CTA, blocks),
        "blockIdx.y": (COLUMN, columns),
        "threadIdx.y": (WARP, warps),
        "threadIdx.x": (LANE, LANES),
    }
    with ExitStack() as stack:
        for tag, (variable, extent) in axes.items():
            axis = tirx.IterVar(tvm.ir.Range(0, extent), variable, THREAD_INDEX, tag)
            stack.enter_context(T.attr(axis, "thread_extent", extent))
        yield Grid(blocks=blocks, columns=columns, warps=warps)


def fill_halo(buffer: Expr, form: Format, grid: Grid) -> None:
    """Writes the pad value into the halo of every sample; all threads of the grid share the work."""
    top, left, bottom, right = form.halo
    width = form.padded_width
    outside = form.padded_height * width - form.height * form.width
    if not outside:
        return
    step = 4 if form.dtype == "uint8" else 1
    value = T.broadcast(T.uint8(form.pad), 4) if step == 4 else getattr(T, form.dtype)(form.pad)
    units = form.pixel // step
    total = SAMPLES * (outside * units)
    with T.serial(0, div(total + grid.threads - 1, grid.threads)) as turn:
        unit = T.bind(turn * grid.threads + grid.thread)
        with T.If(unit < total), T.Then():
            sample, rest = T.bind(div(unit, outside * units)), T.bind(mod(unit, outside * units))
            place = T.bind(div(rest, units))
            # Rows above and below the image come first, then what is left and right of it.
            beside = T.bind(T.max(place - (top + bottom) * width, 0))
            column = T.bind(mod(beside, max(left + right, 1)))
            inner = (top + div(beside, max(left + right, 1))) * width + column
            inner = inner + T.Select(column >= left, T.int32(form.width), T.int32(0))
            ends = place + T.Select(place >= top * width, T.int32(form.height * width), T.int32(0))
            pixel = T.bind(T.Select(place >= (top + bottom) * width, inner, ends))
            at = sample * form.size + pixel * form.pixel + mod(rest, units) * step
            T.buffer_store(buffer, value, [T.ramp(at, 1, 4) if step == 4 else at])


class WarpEmitter(Emitter):
    """The shared epilogue, for a pixel of one of many samples."""

    sample: Expr

    def pixel(self, form: Format, y: Expr, x: Expr) -> Expr:
        """Index of the first element of pixel (y, x) of the sample."""
        return self.sample * form.size + pixel_index(form, y, x)
