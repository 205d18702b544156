"""Transformed tiles of 3x3 convolutions on byte products (`schedules.winograd`): exact in integers.

Elements of V lie in a range of four times the largest code; moved to start at 0 they are unsigned bytes, and what that
adds to Y is a constant of each channel. `lqcompile.lowering.winograd` proves from the weights of a layer that U fits
bytes and how many VPMADDUBSW can be added up in 16 bits. 4 Y is divided without a remainder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from .isa import Expr, constant, vector, zeros
from .problem import ConvShape, Problem, Tile
from .winograd import OUTPUT_MAP, OUTPUTS, POSITIONS, SIDE, WEIGHT_MAP, TileBuilder, doubled, stack_buffer
from .x86_bytes import DotBytes

RANGE = 4
"""Times the largest code: the range of the elements of V."""

LARGEST_CODE = 255 // RANGE
"""Elements of V must fit bytes."""

LARGEST_TAP = 127
"""Of U."""

LARGEST_SUM = ((1 << 31) - 1) // 4
"""Four times a sum must fit 32 bits."""

FEWEST_SUMMED = 2
"""Products of transformed tiles that are summed in 16 bits: with fewer, widening costs what the transform gains."""

PARTS = 4
"""Tasks for threads to share, at least, where there are channels to divide."""


def transformed(taps: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """U of taps [3, 3, C, O] of at most 8 bits: int16[16, C, O]."""
    # As float32, which is exact for such small integers and has a fast product of matrices.
    both = np.kron(WEIGHT_MAP, WEIGHT_MAP).astype(np.float32)
    products = both @ taps.reshape(9, -1).astype(np.float32)
    return products.astype(np.int16).reshape(POSITIONS, *taps.shape[2:])


def shifts(largest: int) -> npt.NDArray[np.int64]:
    """What is added to the elements of V so that they start at 0: int64[4, 4]. Only sums of sums do anyway."""
    added = np.full((SIDE, SIDE), 2 * largest, np.int64)
    added[1, 1] = 0
    return added


class WinogradBuilder(TileBuilder):
    """Groups of input tiles: transformed, multiplied at each of 16 positions, and transformed back into 2x2 outputs."""

    family: Any

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        parts = min(self.stacks, -(-PARTS // self.groups))
        self.parts = next(count for count in range(parts, 0, -1) if self.stacks % count == 0)
        self.tasks = self.groups * self.parts

    def weight_size(self) -> int:
        """Taps, and what is added to outputs."""
        shape = self.shape
        return shape.blocks * self.isa.lanes * (POSITIONS * shape.words + OUTPUTS)

    def task(self, index: Expr) -> None:
        """A group of input tiles, with a part of the output channels."""
        first = T.bind(T.min(index % self.groups * self.group, self.tiles - self.group))
        stacks = self.stacks // self.parts
        self.inputs = stack_buffer(POSITIONS * self.group * self.channels, "uint8")
        self.sums = stack_buffer(POSITIONS * self.group * self.tile.blocks * self.isa.lanes, "int32")
        with T.serial(0, self.group) as tile:
            self._transform(first + tile, tile)
        with T.serial(0, stacks) as stack:
            block = T.bind(index // self.groups * stacks + stack)
            self.prefetch_tiles(first, block * self.tile.blocks, self.tile.blocks)
            with T.serial(0, SIDE) as i, T.serial(0, SIDE) as j:
                self._multiply(block, i, j)
            self.emit_group(first, block)

    def result(self, value: Expr, place: int, block: Expr) -> Expr:
        """Y, without what shifts added."""
        isa, shape = self.isa, self.shape
        added = shape.blocks * isa.lanes * POSITIONS * shape.words + (block * OUTPUTS + place) * isa.lanes
        total = T.bind(T.shift_right(value + self._load_weight(added), constant(2, "int32", isa)))
        if self.epilogue.mode in ("integer", "sums"):
            return total
        return T.bind(T.cast(total, vector("float64", isa)))

    def _transform(self, number: Expr, tile: Expr) -> None:
        """V of one tile, moved to start at 0."""
        lanes = 32 if self.channels % 32 == 0 else 16
        added = shifts(self.family.largest)
        with T.serial(0, self.channels // lanes) as part:
            for i, j, value in self.transformed(number, part, lanes):
                moved = value + T.broadcast(T.uint8(int(added[i, j])), lanes)
                at = ((i * SIDE + j) * self.group + tile) * self.channels + part * lanes
                T.buffer_store(self.inputs, moved, [T.ramp(at, 1, lanes)])

    def _multiply(self, block: Expr, i: Expr, j: Expr) -> None:
        """Sums over channels at one position for all tiles of the group, times what A weighs them with."""
        weight = T.bind(doubled(i) * doubled(j))
        position = T.bind(i * SIDE + j)
        with T.serial(0, self.turns) as turn:
            tile = T.bind(T.min(turn * self.together, self.group - self.together))
            self._register_tile(block, position, tile, weight)

    def _register_tile(self, block: Expr, position: Expr, tile: Expr, weight: Expr) -> None:
        isa, family, blocks, words = self.isa, self.family, self.tile.blocks, self.shape.words
        count = self.together * blocks
        first = T.bind(position * self.group + tile)
        start = T.bind((block * POSITIONS + position) * words)
        held, totals = zeros(count, f"int16x{2 * isa.lanes}"), zeros(count, vector("int32", isa))

        def run(skip: Expr) -> None:
            with T.serial(0, family.flush_steps) as k:
                word = T.bind(skip + k)
                factors = [self._load_weight(((start + word) * blocks + n) * isa.lanes) for n in range(blocks)]
                for m in range(self.together):
                    (codes,) = family.activation(self.inputs, (first + m) * self.channels + word * 4)
                    codes = T.bind(codes)
                    for n, factor in enumerate(factors):
                        at = m * blocks + n
                        T.buffer_store(held, family.step(held[at], [codes], [factor]), [at])
            for at in range(count):
                T.buffer_store(totals, totals[at] + family.widened(held[at], weight), [at])
                T.buffer_store(held, T.broadcast(T.int16(0), 2 * isa.lanes), [at])

        if words == family.flush_steps:
            run(T.int32(0))
        else:
            with T.serial(0, words // family.flush_steps) as part:
                run(T.bind(part * family.flush_steps))
        for m in range(self.together):
            for n in range(blocks):
                to = ((first + m) * blocks + n) * isa.lanes
                T.buffer_store(self.sums, totals[m * blocks + n], [T.ramp(to, 1, isa.lanes)])

    def _load_weight(self, index: Expr) -> Expr:
        return T.bind(self.weights[T.ramp(index, 1, self.isa.lanes)])


@dataclass(frozen=True, kw_only=True)
class WinogradBytes(DotBytes):
    """VPMADDUBSW and VPADDW on transformed tiles, widened every `flush_steps` words.

    Args:
        largest: code.
    """

    builder = WinogradBuilder
    largest: int
    cycles: float = 0.64 * POSITIONS / 36

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """int32: U as [blocks, 4 x 4, words, vectors, lanes], then what to add to 4 Y as [blocks, 2 x 2, lanes]."""
        lanes = self.isa.lanes
        values = np.ascontiguousarray(words[:, 0, :, :, :, 0]).view(np.int8)
        padded = np.pad(values, [(0, shape.blocks * lanes - len(values))] + [(0, 0)] * 3)
        taps = transformed(padded.transpose(1, 2, 3, 0))
        split = taps.astype(np.int8).reshape(POSITIONS, shape.words, 4, -1, tile.blocks, lanes)
        packed = np.ascontiguousarray(split.transpose(3, 0, 1, 4, 5, 2)).view(np.int32)
        added = taps.sum(axis=1, dtype=np.int64).reshape(SIDE, SIDE, -1) * shifts(self.largest)[:, :, None]
        surplus = -np.einsum("yi,ijo,xj->yxo", OUTPUT_MAP, added, OUTPUT_MAP)
        rows = surplus.reshape(OUTPUTS, shape.blocks, lanes).transpose(1, 0, 2).astype(np.int32)
        return (np.concatenate([packed.ravel(), rows.ravel()]),)
