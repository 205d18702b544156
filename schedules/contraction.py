"""The contraction template: a direct convolution with output channels in vector lanes.

One loop nest serves every family. A *word* is what a lane multiplies per step (32 bits of a plane, 4 bytes or 1
float); a tile keeps ``pixels x blocks x plane pairs`` accumulators in registers, weights stream from memory once per
tile and activations are broadcast. A linear layer is a 1x1 convolution on a 1x1 image. Grouped convolutions arrive as
dense ones; a tile reads the window of input words in which its channels have anything but structural zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .combine import combine
from .epilogue import Emitter, Epilogue, fill_halo
from .isa import Expr, Isa, Registers, broadcast, element_bits, load, registers, vector, zero, zeros
from .problem import (
    PARALLEL_MIN_US,
    ConvShape,
    Family,
    SumRule,
    Tile,
    basis_dtype,
    estimated_us,
    output_shapes,
    parameter_shapes,
)

SEGMENT_WORDS = 40
"""Most words of one unrolled run of carry-save adders: more would leave the micro-op cache."""


def contraction(
    isa: Isa, family: Family, shape: ConvShape, tile: Tile, rule: SumRule, epilogue: Epilogue, parallel: bool = True
) -> Any:
    """Builds the PrimFunc of a contraction.

    Parameters, in order: input, residuals, packed weights, table (only of families that look up), weight basis
    (float64 or int32 [planes, channels]; only if there is more than one pair or a float64 epilogue of integers),
    epilogue parameters, counts workspace (bipolar with shared counts), outputs.
    """
    return ContractionBuilder(isa, family, shape, tile, rule, epilogue, parallel).build()


def tile_weights(words: npt.NDArray[Any], blocks: int, tile_blocks: int, lanes: int) -> npt.NDArray[Any]:
    """Orders words as the contraction template reads them.

    Args:
        words: [O, P, kh, kw, W, vectors].
        blocks: vectors of output channels, padding included.
        tile_blocks: vectors per tile.
        lanes: channels per vector.

    Returns:
        [blocks / tile_blocks, kh, kw, W, P, tile_blocks, vectors, lanes], flat.
    """
    outputs = blocks * lanes
    padded = np.pad(words, [(0, outputs - words.shape[0])] + [(0, 0)] * 5)
    split = padded.reshape(blocks // tile_blocks, tile_blocks, lanes, *words.shape[1:])
    return np.ascontiguousarray(split.transpose(0, 4, 5, 6, 3, 1, 7, 2)).ravel()


class ContractionBuilder:
    """Emits a contraction; a loop nest of another kind overrides what has no underscore."""

    def __init__(
        self,
        isa: Isa,
        family: Family,
        shape: ConvShape,
        tile: Tile,
        rule: SumRule,
        epilogue: Epilogue,
        parallel: bool,
    ) -> None:
        self.isa, self.family, self.shape, self.tile, self.rule, self.epilogue = (
            isa,
            family,
            shape,
            tile,
            rule,
            epilogue,
        )
        window = shape.pool[0] * shape.pool[1]
        self.pixels = tile.pixels * window
        self.pairs = shape.weight_planes * rule.act_planes
        self.split = family.channels // isa.lanes
        self.vectors = tile.blocks * self.split
        self.tasks = -(-shape.blocks // self.vectors) * shape.tile_rows
        self.parallel = parallel and self.tasks > 1 and self.estimated_us() >= PARALLEL_MIN_US

    def build(self) -> Any:
        """The PrimFunc."""
        isa, shape, epilogue = self.isa, self.shape, self.epilogue
        channels = shape.blocks * isa.lanes
        basis = basis_dtype(self.rule, epilogue)
        counts = self.family.workspace(shape, self.rule)
        with IRBuilder() as builder, T.prim_func():
            T.func_name("contraction")
            T.func_attr({"tirx.noalias": True})
            self.source = T.arg("source", T.buffer((shape.source.size,), shape.source.dtype))
            residuals = [
                T.arg(f"residual{index}", T.buffer((form.size,), form.dtype))
                for index, form in enumerate(epilogue.residuals())
            ]
            self.weights = T.arg("weights", T.buffer((self.weight_size(),), self.family.weight_dtype))
            if self.family.table_size:
                self.table = T.arg("table", T.buffer((self.family.table_size,), "uint8"))
            if basis:
                self.basis = T.arg("basis", T.buffer((self.basis_rows() * channels,), basis))
            parameters = []
            for index, (dtype, size) in enumerate(parameter_shapes(epilogue, channels)):
                parameters.append(T.arg(f"parameter{index}", T.buffer((size,), dtype)))
            if counts:
                self.counts = T.arg("counts", T.buffer((counts,), "int32"))
            outputs = [
                T.arg(f"output{index}", T.buffer((size,), dtype))
                for index, (dtype, size) in enumerate(output_shapes(shape, self.rule, epilogue, isa))
            ]
            self.outputs = outputs
            self.emitter = Emitter(
                isa, epilogue, parameters=parameters, residuals=residuals, outputs=outputs, channels=channels
            )
            if epilogue.mode != "sums":
                for item, output in zip(epilogue.stores, outputs, strict=True):
                    fill_halo(output, item.format)
            if counts:
                self.prepare()
            loop = T.parallel if self.parallel else T.serial
            with loop(0, self.tasks) as index:
                self.task(index)
        return builder.get()

    def pixel_elements(self) -> int:
        """Elements from one pixel to the next of what `accumulate` reads."""
        return self.shape.source.pixel

    def estimated_us(self) -> float:
        """Rough time on one core."""
        shape = self.shape
        taps = shape.kernel[0] * shape.kernel[1] * shape.words
        pixels = shape.out_height * shape.out_width
        steps = taps * self.pairs * pixels * -(-shape.blocks // self.split)
        return estimated_us(steps, self.family.cycles, shape.tile_rows * shape.tile_columns * shape.blocks)

    def weight_size(self) -> int:
        """Elements of the packed weights."""
        shape = self.shape
        taps = shape.kernel[0] * shape.kernel[1] * shape.words
        channels = -(-shape.blocks // self.vectors) * self.tile.blocks * self.family.channels
        return taps * shape.weight_planes * channels * self.family.vectors

    def basis_rows(self) -> int:
        """Rows of the weight basis."""
        return self.shape.weight_planes

    def prepare(self) -> None:
        """Fills the workspace before tasks run."""
        self._count_activations()

    def task(self, index: Expr) -> None:
        """One task of the parallel loop: a row of tiles."""
        block = T.bind(index // self.shape.tile_rows)
        row = T.bind(index % self.shape.tile_rows)
        self.row(block, row)

    def row(self, block: Expr, row: Expr) -> None:
        """The tiles of a row, for some vectors of channels."""
        columns = self.shape.tile_columns
        tiles = -(-columns // self.tile.pixels)
        if tiles == 1:
            self._tile(block, row, T.int32(0))
            return
        with T.serial(0, tiles) as index:
            # The last tile overlaps its neighbour instead of ending short: it writes equal values.
            column = T.bind(T.min(index * self.tile.pixels, columns - self.tile.pixels))
            self._tile(block, row, column)

    def offsets(self) -> list[tuple[int, int]]:
        """(row, column) of each pixel of the tile, counted in conv outputs from the first one."""
        rows, columns = self.shape.pool
        return [
            (dy, pixel * columns + dx)
            for pixel in range(self.tile.pixels)
            for dy in range(rows)
            for dx in range(columns)
        ]

    def prefetch(self, block: Expr, row: Expr, column: Expr) -> None:
        """Brings the float32 lines that the epilogue of a tile reads and writes into the cache."""
        if isinstance(self.isa, Registers) and self.isa.prefetches and self.emitter.has_streams():
            for pixel in range(self.tile.pixels):
                self.emitter.prefetch(row, column + pixel, block * self.vectors, self.vectors)

    def _tile(self, block: Expr, row: Expr, column: Expr) -> None:
        self.prefetch(block, row, column)
        self.finish(block, row, column, self.accumulate(block, self.bases(block, row, column)))

    def bases(self, block: Expr, row: Expr, column: Expr) -> list[Expr]:
        """Element of the input at which the first tap of each pixel of a tile starts."""
        shape = self.shape
        y0 = row * shape.pool[0]
        x0 = column * shape.pool[1]
        window = shape.window
        first = T.min(window.first_word(block), window.last_word) * self.family.word_elements if window else 0
        bases = []
        for dy, dx in self.offsets():
            y = (y0 + dy) * shape.strides[0] + shape.origin[0]
            x = (x0 + dx) * shape.strides[1] + shape.origin[1]
            bases.append(T.bind((y * shape.source.padded_width + x) * self.pixel_elements() + first))
        return bases

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums of a tile over all taps.

        Args:
            block: index of the vectors of channels.
            bases: element of the input at which the first tap of each pixel starts.

        Returns:
            What `total` reads.
        """
        family, isa = self.family, self.isa
        count = self.pairs * self.pixels * self.tile.blocks
        kind = f"{family.accumulator}x{isa.lanes * 32 // element_bits(family.accumulator)}"
        accumulators = zeros(count, kind)
        totals = zeros(count, f"{family.total}x{family.channels}") if family.flush_steps else accumulators
        if family.carry_save:
            self._carry_save_taps(block, bases, totals)
        else:
            self.taps(block, bases, accumulators, totals)
        return totals

    def taps(self, block: Expr, bases: Sequence[Expr], accumulators: Any, totals: Any) -> None:
        """Words of every tap into accumulators, flushed to totals where those are too narrow."""
        shape = self.shape
        rows, columns = shape.kernel
        limit = self.family.flush_steps
        pixel, width = shape.source.pixel, shape.source.padded_width
        with T.serial(0, rows) as r:
            with T.serial(0, columns) as c:
                offset = T.bind((r * shape.dilations[0] * width + c * shape.dilations[1]) * pixel)
                first = T.bind(((block * rows + r) * columns + c) * shape.words)
                chunk = shape.words
                if limit:
                    chunk = max(size for size in range(1, min(limit, shape.words) + 1) if shape.words % size == 0)
                if chunk == shape.words:
                    self._words(first, [base + offset for base in bases], chunk, accumulators)
                    if limit and limit < columns * shape.words:
                        self._flush(accumulators, totals)
                else:
                    with T.serial(0, shape.words // chunk) as part:
                        skip = part * chunk
                        bytes_skipped = skip * self.family.word_elements
                        self._words(
                            first + skip, [base + offset + bytes_skipped for base in bases], chunk, accumulators
                        )
                        self._flush(accumulators, totals)
            if limit and limit >= columns * shape.words:
                self._flush(accumulators, totals)

    def _carry_save_taps(self, block: Expr, bases: Sequence[Expr], totals: Any) -> None:
        """All words of the tile through carry-save adders; what they hold is counted once at the end."""
        shape, family = self.shape, self.family
        rows, columns = shape.kernel
        pixel, width = shape.source.pixel, shape.source.padded_width
        count = self.pairs * self.pixels * self.tile.blocks
        levels = zeros(3 * count, vector("uint32", self.isa))

        def word(r: Expr, c: Expr, k: Expr) -> tuple[Expr, Expr]:
            offset = (r * shape.dilations[0] * width + c * shape.dilations[1]) * pixel + k * family.word_elements
            return offset, ((block * rows + r) * columns + c) * shape.words + k

        def segment(words: list[tuple[Expr, Expr]]) -> None:
            for start in range(0, len(words), 8):
                self._carry_save_block(words[start : start + 8], bases, levels, totals)

        if rows * columns * shape.words <= SEGMENT_WORDS:
            segment([word(r, c, k) for r in range(rows) for c in range(columns) for k in range(shape.words)])
        elif columns * shape.words <= SEGMENT_WORDS:
            with T.serial(0, rows) as r:
                segment([word(r, c, k) for c in range(columns) for k in range(shape.words)])
        else:
            full = shape.words // 8
            with T.serial(0, rows) as r, T.serial(0, columns) as c:
                if full:
                    with T.serial(0, full) as part:
                        segment([word(r, c, part * 8 + k) for k in range(8)])
                if shape.words % 8:
                    segment([word(r, c, full * 8 + k) for k in range(shape.words % 8)])
        counter: Any = family
        for index in range(count):
            total = totals[index]
            for level in range(3):
                total = T.bind(counter.count(total, levels[3 * index + level], 1 << level))
            T.buffer_store(totals, total, [index])

    def _carry_save_block(
        self, words: Sequence[tuple[Expr, Expr]], bases: Sequence[Expr], levels: Any, totals: Any
    ) -> None:
        """Up to eight words: seven adders leave one vector of weight 8 to count."""
        isa, family, tile = self.isa, self.family, self.tile
        planes = self.shape.weight_planes
        counter: Any = family
        for i in range(planes):
            for n in range(tile.blocks):
                for j in range(self.rule.act_planes):
                    for m, base in enumerate(bases):
                        index = self.index(i, j, m, n)
                        ones, twos, fours = (levels[3 * index + level] for level in range(3))

                        def bit(position: int, i: int = i, n: int = n, base: Expr = base, j: int = j) -> Expr:
                            if position >= len(words):
                                return zero(vector("uint32", isa))
                            offset, at = words[position]
                            weight = load(self.weights, ((at * planes + i) * tile.blocks + n) * isa.lanes, isa)
                            (bits,) = family.activation(self.source, base + j * self.shape.source.plane + offset)
                            return T.bind(weight & bits)

                        pairs = []
                        for half in range(2):
                            carries = []
                            for first in (4 * half, 4 * half + 2):
                                carry, ones = counter.full_adder(ones, bit(first), bit(first + 1))
                                carries.append(carry)
                            carry, twos = counter.full_adder(twos, *carries)
                            pairs.append(carry)
                        eights, fours = counter.full_adder(fours, *pairs)
                        for level, value in enumerate((ones, twos, fours)):
                            T.buffer_store(levels, value, [3 * index + level])
                        T.buffer_store(totals, counter.count(totals[index], eights, 8), [index])

    def _flush(self, accumulators: Any, totals: Any) -> None:
        for index in range(self.pairs * self.pixels * self.tile.blocks):
            T.buffer_store(totals, self.family.flush(totals[index], accumulators[index]), [index])
            T.buffer_store(accumulators, zero(str(accumulators.dtype)), [index])

    def _words(self, first: Expr, bases: Sequence[Expr], count: int, accumulators: Any) -> None:
        """`count` words of one tap: one weight vector per (plane, block), one broadcast per (pixel, plane)."""
        shape, family, tile = self.shape, self.family, self.tile
        planes, vectors = shape.weight_planes, family.vectors

        def body(k: Expr) -> None:
            weights = []
            for i in range(planes):
                for n in range(tile.blocks):
                    at = (((first + k) * planes + i) * tile.blocks + n) * vectors
                    lanes = family.channels
                    weights.append(
                        [T.bind(self.weights[T.ramp((at + part) * lanes, 1, lanes)]) for part in range(vectors)]
                    )
            for j in range(self.rule.act_planes):
                for m, base in enumerate(bases):
                    at = base + j * shape.source.plane + k * family.word_elements
                    word = [T.bind(part) for part in self._activation(at)]
                    for i in range(planes):
                        for n in range(tile.blocks):
                            index = self.index(i, j, m, n)
                            result = family.step(accumulators[index], word, weights[i * tile.blocks + n])
                            T.buffer_store(accumulators, result, [index])

        together = gcd(count, tile.unroll)
        if count == together:
            for k in range(count):
                body(T.int32(k))
        else:
            with T.serial(0, count // together) as turn:
                for k in range(together):
                    body(turn * together + k if together > 1 else turn)

    def _activation(self, index: Expr) -> list[Expr]:
        """Operands of the word at element `index` of the input."""
        family: Any = self.family
        if family.table_size:
            looked_up: list[Expr] = family.look_up(self.table, self.source, index)
            return looked_up
        return self.family.activation(self.source, index)

    def index(self, i: int, j: int, m: int, n: int) -> int:
        """Place of an accumulator: weight plane i, activation plane j, pixel m and vector n of the tile."""
        return ((i * self.rule.act_planes + j) * self.pixels + m) * self.tile.blocks + n

    def _count_activations(self) -> None:
        """C_j of every output pixel: the popcount of the window, shared by all output channels.

        Each pixel is counted once; a window adds up what its pixels have.
        """
        shape, planes = self.shape, self.rule.act_planes
        width, columns = shape.source.padded_width, shape.out_width
        single = shape.kernel == (1, 1)
        pixels = 0 if single else shape.out_height * columns * planes
        if not single:
            with T.serial(0, shape.source.padded_height * width) as pixel:
                for j in range(planes):
                    T.buffer_store(self.counts, self.popcount(pixel, j), [pixels + pixel * planes + j])
        with T.serial(0, shape.out_height) as y, T.serial(0, columns) as x:
            row = y * shape.strides[0] + shape.origin[0]
            first = T.bind(row * width + x * shape.strides[1] + shape.origin[1])
            for j in range(planes):
                total = self.popcount(first, j) if single else T.int32(0)
                for r in range(shape.kernel[0] if not single else 0):
                    for c in range(shape.kernel[1]):
                        tap = r * shape.dilations[0] * width + c * shape.dilations[1]
                        total = total + self.counts[pixels + (first + tap) * planes + j]
                T.buffer_store(self.counts, total, [(y * columns + x) * planes + j])

    def popcount(self, pixel: Expr, plane: int) -> Expr:
        """Ones in one plane of a pixel."""
        form = self.shape.source
        held = registers(1, "int32")
        T.buffer_store(held, T.int32(0), [0])
        with T.serial(0, form.plane // 4) as k:
            word = T.reinterpret("uint32", self.source[T.ramp(pixel * form.pixel + plane * form.plane + k * 4, 1, 4)])
            T.buffer_store(held, held[0] + T.cast(T.popcount(word), "int32"), [0])
        return held[0]

    def _sum(self, totals: Any, i: int, j: int, m: int, n: Expr, position: tuple[Expr, Expr]) -> Expr:
        """S_ij of pixel m and vector n of the tile, int32 (float32 for the float family)."""
        value = self.total(totals, i, j, m, n)
        if self.family.accumulator == "float32" or not self.rule.bipolar:
            return value
        if self.rule.mask_plane >= 0:
            count = self.total(totals, self.rule.mask_plane, j, m, n)
        else:
            y, x = position
            count = broadcast(self.counts[(y * self.shape.out_width + x) * self.rule.act_planes + j], self.isa)
        return value + value - count

    def total(self, totals: Any, i: int, j: int, m: int, n: Expr) -> Expr:
        """What was accumulated for pixel m and vector n of `lanes` channels: int32 (float32 for the float family)."""
        isa = self.isa
        wide = vector("int32", isa)
        if self.split > 1:
            at = self.index(i, j, m, 0) * self.family.channels + n * isa.lanes
            return T.cast(totals[T.ramp(at, 1, isa.lanes)], wide)
        value = totals[self.index(i, j, m, n)]
        return value if self.family.accumulator == "float32" else T.reinterpret(wide, value)

    def narrow(self, totals: Any) -> Any:
        """Totals of families whose vectors hold more channels than the epilogue takes: as single elements."""
        channels = self.family.channels
        count = self.pairs * self.pixels * self.tile.blocks
        elements = registers(count * channels, self.family.total)
        for index in range(count):
            T.buffer_store(elements, totals[index], [T.ramp(index * channels, 1, channels)])
        return elements

    def finish(self, block: Expr, row: Expr, column: Expr, totals: Any) -> None:
        """Sums to values, pooled over the window, to the epilogue."""
        shape, tile = self.shape, self.tile
        window = shape.pool[0] * shape.pool[1]
        offsets = self.offsets()
        first = T.bind(block * self.vectors)

        def finish_vector(pixel: int, n: Expr) -> None:
            pooled: Expr = None
            for m in range(pixel * window, (pixel + 1) * window):
                position = (row * shape.pool[0] + offsets[m][0], column * shape.pool[1] + offsets[m][1])
                if self.epilogue.mode == "sums":
                    self._store_sums(totals, m, n, position, first)
                    continue
                value = self.value(totals, m, n, position, (first + n) * self.isa.lanes)
                pooled = value if pooled is None else T.bind(T.max(pooled, value))
            if self.epilogue.mode != "sums":
                self.emitter.emit(pooled, row, column + pixel, first + n)

        if self.split == 1:
            for pixel in range(tile.pixels):
                for n in range(tile.blocks):
                    finish_vector(pixel, n)
            return
        totals = self.narrow(totals)
        # The last wide vector may hold more channels than there are.
        with T.serial(0, T.min(self.vectors, shape.blocks - first)) as n:
            for pixel in range(tile.pixels):
                finish_vector(pixel, n)

    def _store_sums(self, totals: Any, m: int, n: Expr, position: tuple[Expr, Expr], first: Expr) -> None:
        shape, rule = self.shape, self.rule
        channel = (first + n) * self.isa.lanes
        stride = shape.out_height * shape.out_width
        for i in range(rule.weight_basis):
            for j in range(rule.act_planes):
                value = self._sum(totals, i, j, m, n, position)
                pixel = (i * rule.act_planes + j) * stride + position[0] * shape.out_width + position[1]
                at = pixel * (shape.blocks * self.isa.lanes) + channel
                T.buffer_store(self.outputs[0], value, [T.ramp(at, 1, self.isa.lanes)])

    def value(self, totals: Any, m: int, n: Expr, position: tuple[Expr, Expr], channel: Expr) -> Expr:
        """Y of pixel m and vector n of the tile: int32 (integer mode), float64, or float32 (float family)."""
        rule, isa = self.rule, self.isa
        channels = self.shape.blocks * isa.lanes
        if self.family.accumulator == "float32":
            return T.bind(self._sum(totals, 0, 0, m, n, position))

        def sum_of(i: int, j: int) -> Expr:
            return self._sum(totals, i, j, m, n, position)

        basis = self.basis if basis_dtype(rule, self.epilogue) else None
        return combine(isa, rule, self.epilogue, basis, channels, channel, sum_of)
