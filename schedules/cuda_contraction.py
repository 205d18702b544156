"""The contraction on CUDA cores: a warp computes some pixels of 32 output channels, one channel a thread.

All threads of a warp read the same word of an activation, and each its own word of the weights; nothing is shared
between warps. The pixels of all samples are numbered through, so that a batch fills warps whatever the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .buffers import declare
from .combine import combine
from .cuda_device import device_call
from .cuda_maps import buffer
from .cuda_warp import (
    COLUMN,
    LANE,
    LANES,
    SAMPLES,
    WARPS,
    WarpEmitter,
    div,
    fill_halo,
    launch,
    locals_of,
    mod,
    word_at,
)
from .isa import Expr, load
from .problem import Problem, Tile, basis_dtype, output_shapes, parameter_shapes


@dataclass(frozen=True, kw_only=True)
class WarpTile(Tile):
    """Tile of a warp.

    Args:
        warps: of a thread block.
    """

    warps: int = WARPS


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A pixel of the output, before a fused pooling: its sample, row and column."""

    sample: Expr
    y: Expr
    x: Expr


class WarpContraction:
    """Emits a contraction; a family with a main loop of its own overrides `accumulate` and `sum`.

    Attributes:
        windowed: whether a tile of a grouped convolution reads a window of the input's words alone.
    """

    windowed: ClassVar[bool] = True

    def __init__(self, family: Any, problem: Problem) -> None:
        self.family, self.isa = family, family.isa
        self.shape, self.rule, self.epilogue = problem.shape, problem.rule, problem.epilogue
        self.tile: Any = problem.tile
        self.window = self.shape.pool[0] * self.shape.pool[1]
        self.channels = self.shape.blocks * LANES
        self.rows = self.shape.tile_rows * self.shape.tile_columns

    def build(self) -> Any:
        """The PrimFunc; parameters as on CPUs (nest.py), without a workspace."""
        with IRBuilder() as builder, T.prim_func():
            T.func_name("contraction")
            self.arguments()
            warps, columns = self.tile.warps, self.shape.blocks // self.tile.blocks
            with launch(self.rows, warps * self.tile.pixels, columns, warps) as grid:
                self.halos(grid)
                first = T.bind(grid.warp * self.tile.pixels)
                # Pixels behind the last one repeat it: votes need whole warps, and equal values may be written twice.
                rows = [T.bind(T.min(first + pixel, SAMPLES * self.rows - 1)) for pixel in range(self.tile.pixels)]
                self.body(COLUMN, [self.spots(row) for row in rows])
        return builder.get()

    def arguments(self) -> None:
        """Declares the parameters."""
        shape, epilogue = self.shape, self.epilogue
        self.source = buffer("source", shape.source)
        residuals = [buffer(f"residual{index}", form) for index, form in enumerate(epilogue.residuals())]
        self.weights = T.arg("weights", T.buffer((self.weight_size(),), self.family.weight_dtype))
        basis = basis_dtype(self.rule, epilogue)
        rows = max(shape.weight_planes, self.rule.weight_basis)
        self.basis = T.arg("basis", T.buffer((rows * self.channels,), basis)) if basis else None
        parameters = declare("parameter", parameter_shapes(epilogue, self.channels))
        sizes = output_shapes(shape, self.rule, epilogue, self.isa)
        self.outputs = declare("output", [(dtype, SAMPLES * size) for dtype, size in sizes])
        self.emitter = WarpEmitter(
            self.isa,
            epilogue,
            parameters=parameters,
            residuals=residuals,
            outputs=self.outputs,
            channels=self.channels,
        )

    def weight_size(self) -> int:
        """Elements of the packed weights."""
        shape = self.shape
        return shape.kernel[0] * shape.kernel[1] * shape.words * shape.weight_planes * self.channels

    def halos(self, grid: Any) -> None:
        """Fills the halos of what the kernel writes."""
        for item, output in zip(self.epilogue.stores, self.outputs, strict=False):
            fill_halo(output, item.format, grid)

    def spots(self, row: Expr) -> list[Spot]:
        """The pixels that make pixel number `row` of the output: one, or the window of a fused pooling."""
        shape = self.shape
        sample, rest = T.bind(div(row, self.rows)), T.bind(mod(row, self.rows))
        y, x = T.bind(div(rest, shape.tile_columns)), T.bind(mod(rest, shape.tile_columns))
        return [
            Spot(sample=sample, y=y * shape.pool[0] + dy, x=x * shape.pool[1] + dx)
            for dy in range(shape.pool[0])
            for dx in range(shape.pool[1])
        ]

    def base(self, spot: Spot, block: Expr) -> Expr:
        """Element of the input at which the first tap of a pixel starts."""
        shape = self.shape
        y = spot.y * shape.strides[0] + shape.origin[0]
        x = spot.x * shape.strides[1] + shape.origin[1]
        first: Expr = 0
        if shape.window:
            first = T.min(shape.window.first_word(block), shape.window.last_word) * self.family.word_elements
        pixel = (y * shape.source.padded_width + x) * shape.source.pixel
        return spot.sample * shape.source.size + pixel + first

    def body(self, block: Expr, pixels: Sequence[Sequence[Spot]]) -> None:
        """Sums, values and epilogue of the tile."""
        spots = [spot for group in pixels for spot in group]
        bases = [T.bind(self.base(spot, block)) for spot in spots]
        sums = self.accumulate(block, bases)
        counts = self.count(bases) if self.rule.bipolar and self.rule.mask_plane < 0 else None
        for pixel in range(self.tile.pixels):
            for n in range(self.tile.blocks):
                self.finish(sums, counts, spots, pixel, n, T.bind(block * self.tile.blocks + n))

    def index(self, i: int, j: int, m: int, n: int) -> int:
        """Which accumulator: weight plane, activation plane, pixel, block of channels."""
        place: int = ((i * self.rule.act_planes + j) * self.tile.pixels * self.window + m) * self.tile.blocks + n
        return place

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums over all taps: one step for each word, pair of planes, pixel and block of channels."""
        shape, family, planes = self.shape, self.family, self.shape.weight_planes
        held = locals_of(planes * self.rule.act_planes * len(bases) * self.tile.blocks, family.accumulator, 0)
        with T.serial(0, shape.kernel[0]) as r, T.serial(0, shape.kernel[1]) as c, T.serial(0, shape.words) as k:
            offset = T.bind(self.tap(r, c) + k * family.word_elements)
            at = T.bind(((block * shape.kernel[0] + r) * shape.kernel[1] + c) * shape.words + k)
            weights = [
                T.bind(load(self.weights, (at * planes * self.tile.blocks + index) * LANES, self.isa))
                for index in range(planes * self.tile.blocks)
            ]
            for j in range(self.rule.act_planes):
                for m, base in enumerate(bases):
                    word = [T.bind(part) for part in family.activation(self.source, base + offset + j * self.plane())]
                    for i in range(planes):
                        for n in range(self.tile.blocks):
                            place = self.index(i, j, m, n)
                            step = family.step(held[place], word, [weights[i * self.tile.blocks + n]])
                            T.buffer_store(held, step, [place])
        return held

    def tap(self, r: Expr, c: Expr) -> Expr:
        """Element of the input at tap (r, c), counted from the first tap."""
        row, column = r * self.shape.dilations[0], c * self.shape.dilations[1]
        return (row * self.shape.source.padded_width + column) * self.shape.source.pixel

    def plane(self) -> int:
        """Elements of a plane of a pixel."""
        return self.shape.source.plane

    def count(self, bases: Sequence[Expr]) -> Any:
        """Ones in each plane of each window: threads count a word each, and the warp adds up."""
        shape, planes = self.shape, self.rule.act_planes
        words = shape.kernel[0] * shape.kernel[1] * shape.words
        held = locals_of(planes * len(bases), "int32", 0)
        with T.serial(0, -(-words // LANES)) as turn:
            word = T.bind(turn * LANES + LANE)
            with T.If(word < words), T.Then():
                tap, k = T.bind(div(word, shape.words)), mod(word, shape.words)
                offset = T.bind(self.tap(div(tap, shape.kernel[1]), mod(tap, shape.kernel[1])) + k * 4)
                for j in range(planes):
                    for m, base in enumerate(bases):
                        bits = T.bind(word_at(self.source, base + offset + j * self.plane()))
                        ones = T.cast(T.popcount(bits), "int32")
                        T.buffer_store(held, held[j * len(bases) + m] + ones, [j * len(bases) + m])
        for index in range(planes * len(bases)):
            T.buffer_store(held, device_call("lq_warp_sum", held[index], dtype="int32"), [index])
        return held

    def sum(self, sums: Any, counts: Any, i: int, j: int, m: int, n: int) -> Expr:
        """S_ij of a pixel; of families on bytes and floats the accumulator itself."""
        value = sums[self.index(i, j, m, n)]
        if self.family.accumulator == "uint32":
            value = T.cast(value, "int32")
        if not self.rule.bipolar:
            return value
        spots = self.tile.pixels * self.window
        if counts is not None:
            return value + value - counts[j * spots + m]
        return value + value - T.cast(sums[self.index(self.rule.mask_plane, j, m, n)], "int32")

    def finish(self, sums: Any, counts: Any, spots: Sequence[Spot], pixel: int, n: int, block: Expr) -> None:
        """Sums of a pixel and a block of channels to values, pooled over the window, to the epilogue."""
        pooled: Expr = None
        for m in range(pixel * self.window, (pixel + 1) * self.window):

            def sum_of(i: int, j: int, m: int = m) -> Expr:
                return self.sum(sums, counts, i, j, m, n)

            if self.epilogue.mode == "sums":
                self.store_sums(sum_of, spots[m], block)
                continue
            if self.family.accumulator == "float32":
                value = T.bind(sum_of(0, 0))
            else:
                value = combine(self.isa, self.rule, self.epilogue, self.basis, self.channels, block * LANES, sum_of)
            pooled = value if pooled is None else T.bind(T.max(pooled, value))
        if self.epilogue.mode != "sums":
            spot = spots[pixel * self.window]
            self.emitter.sample = spot.sample
            y, x = T.bind(div(spot.y, self.shape.pool[0])), T.bind(div(spot.x, self.shape.pool[1]))
            self.emitter.emit(pooled, y, x, block)

    def store_sums(self, sum_of: Any, spot: Spot, block: Expr) -> None:
        """The integers themselves, of one sample."""
        shape, rule = self.shape, self.rule
        for i in range(rule.weight_basis):
            for j in range(rule.act_planes):
                row = (i * rule.act_planes + j) * shape.out_height + spot.y
                at = (row * shape.out_width + spot.x) * self.channels + block * LANES
                T.buffer_store(self.outputs[0], sum_of(i, j), [at + LANE])
