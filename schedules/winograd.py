"""Winograd's F(2x2, 3x3): convolutions of 3x3 taps at stride 1 by tiles of 2x2 outputs, 16 multiplications for 36.

With input tiles d of 4x4 values and taps g (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016),

    4 Y = A (U * V) A^T,  U = G g G^T,  V = B d B^T,

    G = 1  0  0    B = 1  0 -1  0    A = 2  1  1  0
        1  1  1        0  1  1  0        0  1 -1 -2
        1 -1  1        0 -1  1  0
        0  0  1        0  1  0 -1

where * multiplies element by element and sums over input channels. What A doubles is doubled before it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from math import gcd
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as T

from .isa import Expr
from .nest import NestBuilder
from .problem import ConvShape, Problem, Tile

WEIGHT_MAP = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]])
"""G"""

OUTPUT_MAP = np.array([[2, 1, 1, 0], [0, 1, -1, -2]])
"""A"""

SIDE = 4
"""Rows and columns of an input tile."""

POSITIONS = SIDE * SIDE

OUTPUTS = len(OUTPUT_MAP) ** 2
"""Of a tile."""

FEWEST_CHANNELS = 16
"""Of the input: with fewer, plain products are as fast (bytes, 8 channels, on Zen 3: 10.1 us against 11.3)."""

POOLS = ((1, 1), (2, 2))
"""Fused max-pooling windows: none, or the outputs of a tile."""

GROUP_TILES = 28
"""Input tiles that are multiplied together, about: their sums stay in the first-level cache."""


def fits(
    kernel: tuple[int, int],
    steps: Sequence[tuple[int, int]],
    channels: int,
    outputs: tuple[int, int],
    pool: tuple[int, int],
) -> bool:
    """Whether a convolution has 3x3 taps at stride 1, enough channels, and outputs for at least one tile.

    Args:
        kernel: rows and columns of taps.
        steps: strides and dilations.
        channels: of the input.
        outputs: rows and columns.
        pool: fused max-pooling window.
    """
    plain = kernel == (3, 3) and all(step == (1, 1) for step in steps) and pool in POOLS
    return plain and channels >= FEWEST_CHANNELS and min(outputs) >= 2


def tile_grid(shape: ConvShape, step: int = 2) -> tuple[int, int]:
    """Rows and columns of input tiles of `step` rows and columns of outputs.

    Outputs of the last tiles overlap those of their neighbours, where a pooling does not drop them anyway.
    """
    up = 0 if shape.pool != (1, 1) else step - 1
    return (shape.out_height + up) // step, (shape.out_width + up) // step


def tiles_of_group(tiles: int, most: int) -> int:
    """How many of `tiles` input tiles are multiplied together: groups are of equal size, and of `most` at most."""
    return -(-tiles // -(-tiles // most))


def winograd_tile(
    shape: ConvShape,
    blocks: int | None,
    most: int = 2,
    sums: tuple[int, int] = (8, 8),
    group_tiles: int = GROUP_TILES,
) -> Tile:
    """Input tiles by vectors of channels whose sums registers hold: as few passes over a group as do.

    Args:
        shape: loop nest.
        blocks: vectors, where packed weights give them; else `most`, or as many as divide those of the shape.
        most: vectors.
        sums: the fewest and the most, if vectors allow.
        group_tiles: input tiles that are multiplied together, about.
    """
    count = blocks or gcd(shape.blocks, most)
    least, top = (max(1, bound // count) for bound in sums)
    rows, columns = tile_grid(shape)
    group = tiles_of_group(rows * columns, group_tiles)
    pixels = min(range(top, least - 1, -1), key=lambda size: -(-group // size) * size)
    return Tile(pixels=pixels, blocks=count)


class TileBuilder(NestBuilder):
    """Loop nests over input tiles, which are numbered row by row and multiplied in groups.

    Attributes:
        side: rows and columns of an input tile.
        step: rows and columns of its outputs.
        group_tiles: input tiles that are multiplied together, about.
        sums: of a group and a stack of channels: [side x side, tiles, blocks, lanes].
    """

    side, step, group_tiles = SIDE, 2, GROUP_TILES
    sums: Any

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        shape, tile = self.shape, self.tile
        self.pooled = shape.pool != (1, 1)
        self.rows, self.columns = tile_grid(shape, self.step)
        self.tiles = self.rows * self.columns
        self.group = min(self.tiles, max(tile.pixels, tiles_of_group(self.tiles, self.group_tiles)))
        self.groups = -(-self.tiles // self.group)
        self.together = min(tile.pixels, self.group)
        self.turns = -(-self.group // self.together)
        self.stacks = shape.blocks // tile.blocks
        self.channels = shape.source.pixel

    @abstractmethod
    def result(self, value: Expr, place: int, block: Expr) -> Expr:
        """What the epilogue takes of output number `place` of a tile, as A makes it."""

    def corner(self, tile: Expr) -> tuple[Expr, Expr]:
        """First output row and column of a tile."""
        row, column = tile // self.columns * self.step, tile % self.columns * self.step
        if self.pooled:
            return T.bind(row), T.bind(column)
        last_row, last_column = self.shape.out_height - self.step, self.shape.out_width - self.step
        return T.bind(T.min(row, last_row)), T.bind(T.min(column, last_column))

    def prefetch_tiles(self, first: Expr, block: Expr, vectors: int) -> None:
        """Brings the float32 lines of the outputs of a group of tiles, from tile `first` on, into the cache."""
        if not self.emitter.has_streams():
            return
        with T.serial(0, self.group) as tile:
            row, column = self.corner(first + tile)
            if self.pooled:
                self.emitter.prefetch(row // 2, column // 2, block, vectors)
                return
            with T.serial(0, self.step) as dy, T.serial(0, self.step) as dx:
                self.emitter.prefetch(row + dy, column + dx, block, vectors)

    def output_map(self, line: Sequence[Expr]) -> Sequence[Expr]:
        """A times vectors."""
        return output_map(line)

    def transformed(self, tile: Expr, part: Expr, lanes: int) -> Iterator[tuple[int, int, Expr]]:
        """V of a tile: (row, column, vector), for channels number ``part * lanes`` and on."""
        shape, form = self.shape, self.shape.source
        row, column = self.corner(tile)
        start = T.bind(((row + shape.origin[0]) * form.padded_width + column + shape.origin[1]) * form.pixel)
        columns = []
        for x in range(SIDE):
            places = [start + (y * form.padded_width + x) * form.pixel + part * lanes for y in range(SIDE)]
            columns.append(input_map([T.bind(self.source[T.ramp(at, 1, lanes)]) for at in places]))
        for i, line in enumerate(zip(*columns, strict=True)):
            for j, value in enumerate(input_map(line)):
                yield i, j, value

    def emit_group(self, first: Expr, stack: Expr) -> None:
        """The outputs of a group of tiles, from tile `first` on, for one stack of channels."""
        with T.serial(0, self.group) as tile, T.serial(0, self.tile.blocks) as n:
            self._emit_tile(stack * self.tile.blocks + n, first + tile, tile, n)

    def _emit_tile(self, block: Expr, number: Expr, tile: Expr, n: Expr) -> None:
        """The outputs of tile `number`, the group's tile `tile`, for vector `block`, the stack's vector `n`."""
        shape, lanes = self.shape, self.isa.lanes
        row, column = self.corner(number)

        def sums(i: int, j: int) -> Expr:
            at = (((i * self.side + j) * self.group + tile) * self.tile.blocks + n) * lanes
            return T.bind(self.sums[T.ramp(at, 1, lanes)])

        lines = [self.output_map([sums(i, j) for i in range(self.side)]) for j in range(self.side)]
        pooled: Expr = None
        for dy in range(self.step):
            for dx, value in enumerate(self.output_map([line[dy] for line in lines])):
                result = self.result(value, self.step * dy + dx, block)
                if self.epilogue.mode == "sums":
                    pixel = (row + dy) * shape.out_width + column + dx
                    T.buffer_store(self.outputs[0], result, [T.ramp((pixel * shape.blocks + block) * lanes, 1, lanes)])
                elif self.pooled:
                    pooled = result if pooled is None else T.bind(T.max(pooled, result))
                else:
                    self.emitter.emit(result, row + dy, column + dx, block)
        if pooled is not None:
            self.emitter.emit(pooled, row // 2, column // 2, block)


def input_map(line: Sequence[Expr]) -> list[Expr]:
    """B times four vectors."""
    return [T.bind(line[0] - line[2]), T.bind(line[1] + line[2]), T.bind(line[2] - line[1]), T.bind(line[1] - line[3])]


def output_map(line: Sequence[Expr]) -> tuple[Expr, Expr]:
    """A times four vectors whose outer ones are doubled already."""
    return T.bind(line[0] + line[1] + line[2]), T.bind(line[1] - line[2] - line[3])


def doubled(index: Expr) -> Expr:
    """What A weighs a row or column with, but for its sign: 2, 1, 1, 2."""
    return T.Select(index * (index - 3) == 0, T.int32(2), T.int32(1))
