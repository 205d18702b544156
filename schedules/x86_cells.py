"""First layers, 8-bit codes of few channels, on transformed tiles of cells of pixels: exact in integers.

`schedules.cells` has the form: 576 Y = A (U * V) A^T, with tiles V of 6x6 cells.
V fits 16 bits for any 8-bit codes; `lqcompile.lowering.winograd.cells_serve` proves it of U. Sums of products
(VPMADDWD, or VPDPWSSD with VNNI) may wrap around at 32 bits: so does 576 Y, and Y comes back as 1/9 modulo 2**32 of it,
shifted by 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from .cells import POSITIONS, SIDE, cell_words, reach, transformed
from .isa import Expr, broadcast, constant, stack_buffer, vector, zeros
from .problem import ConvShape, Problem, Tile, estimated_us
from .winograd import TileBuilder, tile_grid, winograd_tile
from .words import Words
from .x86_bytes import add_word_products, words_type
from .x86_families import X86

NINTH, SHIFT = pow(9, -1, 1 << 32), 6
"""576 Y * NINTH = Y << SHIFT, modulo 2**32."""

LARGEST_SUM = (1 << (31 - SHIFT)) - 1
"""Y that comes back."""

LARGEST_TAP = (1 << 15) - 1
"""Of U."""

FEWEST_WORDS = 30
"""Pairs of 16-bit products of an output, by plain rows of taps: with fewer, the maps cost what they save."""

FEWEST_SAVED = 40
"""Products that an output must save over VPDPBUSD (`saved_products`). The maps of 7x7 taps at stride 2 with 64 channels
take 24 instructions for 16 of them, and save 25; those of 11x11 at 4 with 96 take 20 and save 67."""

LANES = 16
"""Of a vector of 16 bits."""

UNROLLED = 8
"""Words of a position that one turn of the loop takes, at most."""


class CellsBuilder(TileBuilder):
    """Groups of input tiles: transformed, multiplied at each of 36 positions, and transformed back into m x m outputs.

    A group is one register tile: LLVM would keep the weights of several, and spill them.
    """

    family: Any
    side, group_tiles = SIDE, 1

    def __init__(self, family: Any, problem: Problem) -> None:
        shape = problem.shape
        self.step = SIDE + 1 - reach(shape.kernel, shape.strides)
        self.stride = shape.strides[0]
        self.run = self.stride * shape.source.pixel
        self.words = cell_words(self.stride, shape.source.pixel)
        self.slot = 2 * self.words
        super().__init__(family, problem)
        # Vectors run over the end of what they bring, at last behind the last tile of a position.
        self.position = self.group * self.slot + LANES
        self.tasks = self.groups

    def weight_size(self) -> int:
        """Words of U."""
        return self.shape.blocks * self.isa.lanes * POSITIONS * self.words

    def estimated_us(self) -> float:
        """Rough time on one core."""
        shape = self.shape
        rows, columns = tile_grid(shape, self.step)
        vectors = shape.out_height * shape.out_width * shape.blocks
        return estimated_us(rows * columns * POSITIONS * self.words * shape.blocks, self.family.cycles, vectors)

    def task(self, index: Expr) -> None:
        """A group of input tiles."""
        first = T.bind(T.min(index * self.group, self.tiles - self.group))
        self.inputs = stack_buffer(POSITIONS * self.position, "int16")
        self.sums = stack_buffer(POSITIONS * self.group * self.tile.blocks * self.isa.lanes, "int32")
        self.strip = stack_buffer(SIDE * self.stride * (SIDE * self.run + LANES), "int16")
        with T.serial(0, self.group) as tile:
            self._transform(first + tile, tile)
        with T.serial(0, self.stacks) as stack:
            self.prefetch_tiles(first, stack * self.tile.blocks, self.tile.blocks)
            with T.serial(0, POSITIONS) as position:
                self._multiply(stack, position)
            self.emit_group(first, stack)

    def output_map(self, line: Sequence[Expr]) -> Sequence[Expr]:
        """A times six vectors."""
        near, near_odd = T.bind(line[1] + line[2]), T.bind(line[1] - line[2])
        far, far_odd = T.bind(line[3] + line[4]), T.bind(line[3] - line[4])
        found = []
        for power in range(self.step):
            pair = far_odd if power % 2 else far
            total = (near_odd if power % 2 else near) + (self._shifted(pair, power) if power else pair)
            total = total + line[0] if power == 0 else total
            found.append(T.bind(total + self._shifted(line[5], 1) if power == self.step - 1 else total))
        return found

    def result(self, value: Expr, place: int, block: Expr) -> Expr:  # noqa: ARG002 - equal for all outputs
        """Y of 576 Y."""
        isa = self.isa
        total = T.bind(T.shift_right(value * constant(NINTH, "int32", isa), constant(SHIFT, "int32", isa)))
        if self.epilogue.mode in ("integer", "sums"):
            return total
        return T.bind(T.cast(total, vector("float64", isa)))

    def _shifted(self, value: Expr, count: int) -> Expr:
        return T.shift_left(value, constant(count, "int32", self.isa))

    def _transform(self, number: Expr, tile: Expr) -> None:
        """V of one tile: columns of cells first, in vectors along a row of the image, then rows of cells."""
        form, stride, run = self.shape.source, self.stride, self.run
        row, column = self.corner(number)
        top = T.bind(row * stride + self.shape.origin[0])
        left = T.bind((column * stride + self.shape.origin[1]) * form.pixel)
        length = SIDE * run + LANES
        for part in range(stride):
            # The last row of a last cell may lie behind the image: what its zero taps multiply does not matter.
            lines = [T.bind(T.min(top + (y * stride + part), form.padded_height - 1)) for y in range(SIDE)]
            starts = [T.bind(line * (form.padded_width * form.pixel) + left) for line in lines]
            for skip in vector_starts(SIDE * run, LANES):
                loaded = [T.bind(self.source[T.ramp(start + skip, 1, LANES)]) for start in starts]
                for y, value in enumerate(input_map(loaded, LANES)):
                    T.buffer_store(self.strip, value, [T.ramp((y * stride + part) * length + skip, 1, LANES)])
        lanes = LANES if run > LANES // 2 else LANES // 2
        with T.serial(0, SIDE) as y:
            for part in range(stride):
                base = T.bind((y * stride + part) * length)
                to = T.bind(y * (SIDE * self.position) + tile * self.slot + part * run)
                # In ascending order: what a vector writes behind its values, the next one overwrites.
                for skip in range(0, run, lanes):
                    loaded = [T.bind(self.strip[T.ramp(base + (x * run + skip), 1, lanes)]) for x in range(SIDE)]
                    for x, value in enumerate(input_map(loaded, lanes)):
                        T.buffer_store(self.inputs, value, [T.ramp(to + (x * self.position + skip), 1, lanes)])

    def _multiply(self, stack: Expr, position: Expr) -> None:
        """Sums of the group at one position."""
        isa, blocks, words = self.family.isa, self.tile.blocks, self.words
        count = self.together * blocks
        held = zeros(count, vector("int32", isa))
        codes = T.bind(position * self.position)
        weights = T.bind((stack * POSITIONS + position) * (words * blocks * isa.lanes))

        def step(word: Expr) -> None:
            at = weights + word * (blocks * isa.lanes)
            factors = [T.bind(self.weights[T.ramp(at + n * isa.lanes, 1, isa.lanes)]) for n in range(blocks)]
            for m in range(self.together):
                pair = T.reinterpret("int32", self.inputs[T.ramp(codes + (m * self.slot + word * 2), 1, 2)])
                code = T.bind(T.reinterpret(words_type(isa), broadcast(pair, isa)))
                for n, factor in enumerate(factors):
                    at = m * blocks + n
                    words = T.reinterpret(words_type(isa), factor)
                    T.buffer_store(held, add_word_products(held[at], code, words, isa), [at])

        unrolled = next(size for size in range(min(words, UNROLLED), 0, -1) if words % size == 0)
        with T.serial(0, words // unrolled) as part:
            for word in range(unrolled):
                step(part * unrolled + word)
        for m in range(self.together):
            for n in range(blocks):
                to = ((position * self.group + m) * blocks + n) * isa.lanes
                T.buffer_store(self.sums, held[m * blocks + n], [T.ramp(to, 1, isa.lanes)])


def vector_starts(length: int, lanes: int) -> list[int]:
    """Where vectors start that cover `length` elements; the last overlaps the one before it."""
    return [*range(0, length - lanes, lanes), length - lanes]


def input_map(line: Sequence[Expr], lanes: int) -> list[Expr]:
    """B times six vectors of 16 bits."""

    def times(value: Expr, power: int) -> Expr:
        return T.shift_left(value, T.broadcast(T.int16(power), lanes))

    near, near_odd = T.bind(line[4] - times(line[2], 2)), T.bind(line[3] - times(line[1], 2))
    far, odd = T.bind(line[4] - line[2]), T.bind(line[3] - line[1])
    far_odd = T.bind(times(odd, 1))
    rows = [
        times(line[0] - line[2], 2) + far,
        near + near_odd,
        near - near_odd,
        far + far_odd,
        far - far_odd,
        line[5] - line[3] - times(odd, 2),
    ]
    return [T.bind(row) for row in rows]


@dataclass(frozen=True, kw_only=True)
class DotCells(Words):
    """VPMADDWD, or VPDPWSSD, on transformed tiles of cells."""

    builder = CellsBuilder
    isa: X86
    accumulator: str = "int32"
    weight_dtype: str = "int32"
    cycles: float = 0.6

    def tile(self, shape: ConvShape, blocks: int | None) -> Tile:
        """Two vectors of channels; enough sums for two VPDPWSSD a cycle, each five cycles behind the one before it."""
        count = 10 if self.isa.vnni else 8
        return winograd_tile(shape, blocks, sums=(count, count))

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """U of rows of taps (`pack_row_words`): int32 [blocks, 36, words, vectors, lanes], pairs of 16 bits."""
        lanes, (rows, columns), channels = self.isa.lanes, shape.kernel, shape.source.pixel
        pairs = np.ascontiguousarray(words[:, 0, :, 0, :, 0]).view(np.int16)
        taps = pairs[:, :, : columns * channels].reshape(-1, rows, columns, channels)
        padded = np.pad(taps, [(0, shape.blocks * lanes - len(taps))] + [(0, 0)] * 3)
        made = transformed(padded.transpose(0, 3, 1, 2), shape.strides[0])
        even = np.pad(made, [(0, 0), (0, made.shape[1] % 2), (0, 0)]).astype(np.int16)
        split = even.reshape(POSITIONS, -1, 2, shape.blocks // tile.blocks, tile.blocks, lanes)
        return (np.ascontiguousarray(split.transpose(3, 0, 1, 4, 5, 2)).view(np.int32).ravel(),)
