"""Weight-only 3x3 convolutions by transformed tiles (`schedules.winograd`), in float32.

The tiles of the whole input are transformed first. Then the packed weights of some output channels become floats,
transformed, and are multiplied with all tiles. All factors of A and G are powers of two, so that only sums are rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from . import winograd
from .isa import Expr, broadcast, constant, load, stack_buffer, store, vector, zeros
from .problem import ConvShape, Problem
from .winograd import OUTPUT_MAP, POSITIONS, SIDE, TileBuilder
from .words import WORD

MOST_CHANNELS = 1024
"""Of the input: transformed weights of a stack of 16 outputs then take 1 MB of a thread's stack."""


def fits(shape: ConvShape) -> bool:
    """Whether a nest can run on transformed tiles, and their weights fit a stack."""
    channels, outputs = shape.source.channels, (shape.out_height, shape.out_width)
    served = winograd.fits(shape.kernel, (shape.strides, shape.dilations), channels, outputs, shape.pool)
    return served and channels <= MOST_CHANNELS


def transformed_size(shape: ConvShape) -> int:
    """float32 elements of the transformed input."""
    rows, columns = winograd.tile_grid(shape)
    return POSITIONS * rows * columns * shape.source.pixel


class TransformedTiles(TileBuilder):
    """Weights of a stack of output channels become floats and are multiplied with all tiles."""

    family: Any

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        self.words = -(-self.shape.words // WORD)
        self.tasks = self.stacks

    def weight_size(self) -> int:
        """Packed words."""
        shape = self.shape
        return shape.kernel[0] * shape.kernel[1] * self.words * self.rule.signed_planes * shape.blocks * self.isa.lanes

    def basis_rows(self) -> int:
        """A row for each plane, and one for the offset."""
        return self.rule.weight_basis

    def prepare(self) -> None:
        """V of all tiles: [4 x 4, tiles, channels]."""
        lanes = self.isa.lanes
        loop = T.parallel if self.parallel else T.serial
        with loop(0, self.rows) as row, T.serial(0, self.columns) as column:
            tile = T.bind(row * self.columns + column)
            with T.serial(0, self.channels // lanes) as part:
                for i, j, value in self.transformed(tile, part, lanes):
                    at = ((i * SIDE + j) * self.tiles + tile) * self.channels + part * lanes
                    store(self.counts, T.reinterpret(vector("int32", self.isa), value), at, self.isa)

    def task(self, index: Expr) -> None:
        """A stack of output channels."""
        lanes, blocks = self.isa.lanes, self.tile.blocks
        self.expanded = stack_buffer(POSITIONS * self.shape.words * blocks * lanes, "float32")
        self.sums = stack_buffer(POSITIONS * self.group * blocks * lanes, "float32")
        self._expand(index)
        with T.serial(0, self.groups) as group:
            first = T.bind(T.min(group * self.group, self.tiles - self.group))
            with T.serial(0, POSITIONS) as position, T.serial(0, self.turns) as turn:
                self._register_tile(position, first, T.bind(T.min(turn * self.together, self.group - self.together)))
            self.emit_group(first, index)

    def result(self, value: Expr, place: int, block: Expr) -> Expr:  # noqa: ARG002
        """Y: the transformed weights have the factors of A, and the quarter."""
        return value

    def _register_tile(self, position: Expr, first: Expr, tile: Expr) -> None:
        isa, blocks = self.isa, self.tile.blocks
        count = self.together * blocks
        held = zeros(count, vector("float32", isa))
        start = T.bind((position * self.tiles + first + tile) * self.channels)
        weights = T.bind(position * self.shape.words)
        with T.serial(0, self.shape.words) as k:
            factors = [
                T.bind(load(self.expanded, ((weights + k) * blocks + n) * isa.lanes, isa)) for n in range(blocks)
            ]
            for m in range(self.together):
                value = T.reinterpret("float32", self.counts[start + m * self.channels + k])
                spread = T.bind(broadcast(value, isa))
                for n, factor in enumerate(factors):
                    at = m * blocks + n
                    T.buffer_store(held, held[at] + spread * factor, [at])
        for at in range(count):
            store(self.sums, held[at], ((position * self.group + tile) * blocks + at) * isa.lanes, isa)

    def _expand(self, stack: Expr) -> None:
        """U of a stack: [4 x 4, channels, blocks, lanes]."""
        shape, isa, planes, blocks = self.shape, self.isa, self.rule.signed_planes, self.tile.blocks
        channels = shape.blocks * isa.lanes
        whole, rest = divmod(shape.words, WORD)

        def word(k: Expr, count: int, n: int) -> None:
            def basis(row: int) -> Expr:
                return T.bind(load(self.basis, row * channels + (stack * blocks + n) * isa.lanes, isa))

            rows = [basis(row) for row in range(self.rule.weight_basis)]
            with T.serial(0, count) as position:
                taps = [
                    [self._tap(stack, 3 * r + c, k, position, n, rows[:planes], rows[planes:]) for c in range(3)]
                    for r in range(3)
                ]
                for i, j, value in _weight_tile(taps):
                    scale = float(np.abs(OUTPUT_MAP).max(axis=0)[[i, j]].prod()) / 4
                    at = ((i * SIDE + j) * shape.words + k * WORD + position) * blocks + n
                    store(self.expanded, value * constant(scale, "float32", isa), at * isa.lanes, isa)

        for n in range(blocks):
            if whole:
                with T.serial(0, whole) as k:
                    word(k, WORD, n)
            if rest:
                word(T.int32(whole), rest, n)

    def _tap(
        self, stack: Expr, tap: int, k: Expr, position: Expr, n: int, rows: list[Expr], offset: list[Expr]
    ) -> Expr:
        isa, planes, blocks = self.isa, self.rule.signed_planes, self.tile.blocks
        first = ((stack * 9 + tap) * self.words + k) * planes * blocks
        terms = list(offset)
        for i, row in enumerate(rows):
            words = load(self.weights, (first + i * blocks + n) * isa.lanes, isa)
            terms.append(self.family.signed(row, words, position))
        value = terms[0]
        for term in terms[1:]:
            value = value + term
        return T.bind(value)


def _weight_tile(taps: list[list[Expr]]) -> Iterator[tuple[int, int, Expr]]:
    """G g G^T: (row, column, vector)."""
    columns = [_weight_map([line[c] for line in taps]) for c in range(3)]
    for i, line in enumerate(zip(*columns, strict=True)):
        for j, value in enumerate(_weight_map(list(line))):
            yield i, j, value


def _weight_map(line: list[Expr]) -> list[Expr]:
    """G times three vectors."""
    outer = T.bind(line[0] + line[2])
    return [line[0], T.bind(outer + line[1]), T.bind(outer - line[1]), line[2]]
