"""Transformed tiles of 3x3 convolutions on byte products (`schedules.winograd`): exact in integers.

Elements of V lie in a range of four times the largest code; moved to start at 0 they are unsigned bytes, and what that
adds to Y is a constant of each channel. `lqcompile.lowering.winograd` proves from the weights of a layer that U fits
bytes and, for VPMADDUBSW, how many products can be added up in 16 bits. 4 Y is divided without a remainder.

VPDPBUSD adds up in 32 bits, where sums that wrap around come back. So U has what A weighs with, too: it still fits
bytes, for where nine weights are added A weighs with 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from .isa import Expr, constant, stack_buffer, vector, zeros
from .problem import ConvShape, Problem, Tile
from .winograd import (
    GROUP_TILES,
    OUTPUT_MAP,
    OUTPUTS,
    POSITIONS,
    SIDE,
    WEIGHT_MAP,
    TileBuilder,
    doubled,
    winograd_tile,
)
from .x86_bytes import DotBytes, FourProducts
from .x86_families import X86

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

TILE_WORDS = 64
"""Words of a pixel up to which VPMADDUBSW multiplies eight vectors of channels with one word: 256 kB of weights. On
Zen 3 that is 1.03 to 1.2 times as fast as two vectors and four words, with 512 channels 0.91 to 0.94.
"""

FEWEST_CHANNELS_VNNI = 32
"""Of the input, for VPDPBUSD: instructions of 16 channels on tiles, with their maps, take longer than those without
(llvm-mca for Cascade Lake, docs/x86.md)."""

WIDE_GROUP_TILES = 16
"""Input tiles that are multiplied together, about, with 512 bits: sums of two vectors of channels take 32 kB."""


def transformed(taps: npt.NDArray[Any]) -> npt.NDArray[np.int16]:
    """U of taps [3, 3, C, O] of at most 8 bits: int16[16, C, O]."""
    # As float32, which is exact for such small integers and has a fast product of matrices.
    both = np.kron(WEIGHT_MAP, WEIGHT_MAP).astype(np.float32)
    products = both @ taps.reshape(9, -1).astype(np.float32)
    return products.astype(np.int16).reshape(POSITIONS, *taps.shape[2:])


def weighed(taps: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
    """U, int16[16, C, O], times what A weighs each position with."""
    factors = np.abs(OUTPUT_MAP).max(axis=0)
    return taps * np.outer(factors, factors).reshape(-1, 1, 1).astype(np.int16)


def shifts(largest: int) -> npt.NDArray[np.int64]:
    """What is added to the elements of V so that they start at 0: int64[4, 4]. Only sums of sums do anyway."""
    added = np.full((SIDE, SIDE), 2 * largest, np.int64)
    added[1, 1] = 0
    return added


class WinogradBuilder(TileBuilder):
    """Groups of input tiles: transformed, multiplied at each of 16 positions, and transformed back into 2x2 outputs."""

    family: Any

    def __init__(self, family: Any, problem: Problem) -> None:
        self.group_tiles = family.group_tiles
        super().__init__(family, problem)
        parts = min(self.stacks, -(-PARTS // self.groups))
        self.parts = next(count for count in range(parts, 0, -1) if self.stacks % count == 0)
        self.tasks = self.groups * self.parts

    @property
    def map_lanes(self) -> int:
        """Channels of a vector of V: as many as divide those of a pixel."""
        return next(count for count in (4 * self.isa.lanes, 32, 16) if self.channels % count == 0)

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
        lanes = self.map_lanes
        added = shifts(self.family.largest)
        with T.serial(0, self.channels // lanes) as part:
            for i, j, value in self.transformed(number, part, lanes):
                moved = value + T.broadcast(T.uint8(int(added[i, j])), lanes)
                at = ((i * SIDE + j) * self.group + tile) * self.channels + part * lanes
                T.buffer_store(self.inputs, moved, [T.ramp(at, 1, lanes)])

    def _multiply(self, block: Expr, i: Expr, j: Expr) -> None:
        """Sums over channels at one position for all tiles of the group, times what A weighs them with."""
        weight = T.bind(doubled(i) * doubled(j)) if self.family.flush_steps else None
        position = T.bind(i * SIDE + j)
        with T.serial(0, self.turns) as turn:
            tile = T.bind(T.min(turn * self.together, self.group - self.together))
            self._register_tile(block, position, tile, weight)

    def _register_tile(self, block: Expr, position: Expr, tile: Expr, weight: Expr | None) -> None:
        isa, family, blocks, words = self.isa, self.family, self.tile.blocks, self.shape.words
        count = self.together * blocks
        first = T.bind(position * self.group + tile)
        start = T.bind((block * POSITIONS + position) * words)
        totals = zeros(count, vector("int32", isa))
        held = totals if weight is None else zeros(count, f"int16x{2 * isa.lanes}")

        def run(skip: Expr, steps: int) -> None:
            with T.serial(0, steps) as k:
                word = T.bind(skip + k)
                factors = [self._load_weight(((start + word) * blocks + n) * isa.lanes) for n in range(blocks)]
                for m in range(self.together):
                    (codes,) = family.activation(self.inputs, (first + m) * self.channels + word * 4)
                    codes = T.bind(codes)
                    for n, factor in enumerate(factors):
                        at = m * blocks + n
                        T.buffer_store(held, family.step(held[at], [codes], [factor]), [at])

        def widened_run(skip: Expr) -> None:
            run(skip, family.flush_steps)
            for at in range(count):
                T.buffer_store(totals, totals[at] + family.widened(held[at], weight), [at])
                T.buffer_store(held, T.broadcast(T.int16(0), 2 * isa.lanes), [at])

        if weight is None:
            run(T.int32(0), words)
        elif words == family.flush_steps:
            widened_run(T.int32(0))
        else:
            with T.serial(0, words // family.flush_steps) as part:
                widened_run(T.bind(part * family.flush_steps))
        for m in range(self.together):
            for n in range(blocks):
                to = ((first + m) * blocks + n) * isa.lanes
                T.buffer_store(self.sums, totals[m * blocks + n], [T.ramp(to, 1, isa.lanes)])

    def _load_weight(self, index: Expr) -> Expr:
        return T.bind(self.weights[T.ramp(index, 1, self.isa.lanes)])


@dataclass(frozen=True, kw_only=True)
class Transformed(ABC):
    """What byte products on transformed tiles have in common, whatever multiplies.

    Args:
        largest: code.
    """

    builder = WinogradBuilder
    isa: X86
    largest: int
    flush_steps: int = 0

    @property
    def group_tiles(self) -> int:
        """Input tiles that are multiplied together, about."""
        return WIDE_GROUP_TILES if self.isa.lanes == 16 else GROUP_TILES

    @abstractmethod
    def tile(self, shape: ConvShape, blocks: int | None) -> Tile:
        """Input tiles by vectors of channels whose sums registers hold; `blocks` where packed weights give these."""

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """int32: U as [blocks, 4 x 4, words, vectors, lanes], then what to add to 4 Y as [blocks, 2 x 2, lanes]."""
        lanes = self.isa.lanes
        values = np.ascontiguousarray(words[:, 0, :, :, :, 0]).view(np.int8)
        padded = np.pad(values, [(0, shape.blocks * lanes - len(values))] + [(0, 0)] * 3)
        taps = transformed(padded.transpose(1, 2, 3, 0))
        factors = taps if self.flush_steps else weighed(taps)
        split = factors.astype(np.int8).reshape(POSITIONS, shape.words, 4, -1, tile.blocks, lanes)
        packed = np.ascontiguousarray(split.transpose(3, 0, 1, 4, 5, 2)).view(np.int32)
        added = taps.sum(axis=1, dtype=np.int64).reshape(SIDE, SIDE, -1) * shifts(self.largest)[:, :, None]
        surplus = -np.einsum("yi,ijo,xj->yxo", OUTPUT_MAP, added, OUTPUT_MAP)
        rows = surplus.reshape(OUTPUTS, shape.blocks, lanes).transpose(1, 0, 2).astype(np.int32)
        return (np.concatenate([packed.ravel(), rows.ravel()]),)


@dataclass(frozen=True, kw_only=True)
class WinogradBytes(Transformed, DotBytes):
    """VPMADDUBSW and VPADDW on transformed tiles, widened every `flush_steps` words."""

    cycles: float = 0.64 * POSITIONS / 36

    def tile(self, shape: ConvShape, blocks: int | None) -> Tile:
        """Eight sums of 16 bits, which LLVM widens into eight of 32."""
        many = self.isa.lanes == 8 and shape.words <= TILE_WORDS
        return winograd_tile(shape, blocks, 8 if many else 2)


@dataclass(frozen=True, kw_only=True)
class WinogradVnni(Transformed, FourProducts):
    """VPDPBUSD on transformed tiles."""

    cycles: float = 0.5 * POSITIONS / 36

    def tile(self, shape: ConvShape, blocks: int | None) -> Tile:
        """Enough sums for two VPDPBUSD a cycle, each five cycles behind the one before it: ten."""
        registers = (10, 16) if self.isa.lanes == 16 else (10, 12)
        return winograd_tile(shape, blocks, 2, registers, self.group_tiles)
