"""The loop nest of pair look-ups: rows of a table in place of broadcast words.

Before the loops the offset of a row is found for each look-up of each pixel. A tile is computed in passes of a few
outputs whose sums stay in registers. Where the weights of a tile do not fit the first-level cache, the sum over taps is
cut into pieces, and all tiles of a row, or of some rows, take one piece before the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .isa import Expr, registers, stack_buffer, zero
from .problem import Problem, Tile, workspace_size
from .row_tiles import RowTileBuilder
from .x86_lut_pass import ROWS, Pass, repeat
from .x86_lut_vectors import ROW_BYTES, splat

PASS_OUTPUTS = 4
"""Outputs (a pixel or two by a vector of channels by a weight plane) of a pass: two accumulators and a sum of bytes for
each. The 32 registers of AVX-512 would hold twice as many, but its two ports for vectors are busy with these."""


@dataclass(frozen=True, kw_only=True)
class LookupTile(Tile):
    """Tile of pair look-ups; `unroll` counts groups of look-ups whose bytes are added.

    Args:
        pieces: of the sum over taps: 1, the rows of the kernel, or a multiple of those (`runs`).
        rows: whose tiles take a piece together; divides the rows of tiles.
    """

    pieces: int = 1
    rows: int = 1


def pass_groups(offsets: Sequence[tuple[int, int]], paired: bool) -> list[tuple[int, ...]]:
    """The pixels of a tile that share look-ups: each alone, or two neighbours of a row.

    Args:
        offsets: (row, column) of each pixel.
        paired: whether a look-up serves two pixels.

    Returns:
        Numbers of pixels; where one has no neighbour, it alone.

    Example:
        >>> pass_groups([(0, 0), (0, 1), (1, 0), (1, 1), (0, 2)], paired=True)
        [(0, 1), (2, 3), (4,)]
    """
    if not paired:
        return [(number,) for number in range(len(offsets))]
    numbers = {offset: number for number, offset in enumerate(offsets)}
    return [
        tuple(numbers[row, x] for x in (column, column + 1) if (row, x) in numbers)
        for row, column in offsets
        if column % 2 == 0
    ]


class PairLookupBuilder(RowTileBuilder):
    """Rows of a table in place of words; their offsets lie behind the counts in the workspace."""

    family: Any
    start: Expr = 0
    """Where the sums of a tile begin among those of its rows."""

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        tile = self.tile
        self.pieces, self.rows = (tile.pieces, tile.rows) if isinstance(tile, LookupTile) else (1, 1)
        self.tasks //= self.rows

    @property
    def levels(self) -> bool:
        """Whether planes of activations are combined in the table."""
        combined: bool = self.family.combines_codes
        return combined

    def pixel_elements(self) -> int:
        """Row offsets of a pixel."""
        steps: int = self.family.pixel_steps(self.shape)
        return steps

    def prepare(self) -> None:
        """Counts, and where in the table each look-up finds its row."""
        super().prepare()
        shape, form = self.shape, self.shape.source
        count = form.plane
        lanes = 8 if count % 8 == 0 else 4
        steps = self.family.pixel_steps(shape)
        start = workspace_size(shape, self.rule)
        byte, wide = f"uint8x{lanes}", f"int32x{lanes}"

        def rows_of(pixel: Expr) -> None:
            # Behind the last pixel there is no neighbour, and nobody uses what would be its sums.
            last = form.padded_height * form.padded_width - 1
            other = T.bind(T.min(pixel + shape.strides[1], last)) if self.family.pairs_pixels else pixel
            for pair in range(self.family.plane_pairs):
                with T.serial(0, count // lanes) as part:
                    at = T.bind(pixel * form.pixel + 2 * pair * count + part * lanes)
                    first = T.bind(self.source[T.ramp(at, 1, lanes)])
                    low, high = first & splat(15, lanes), T.shift_right(first, splat(4, lanes))
                    following = None
                    if self.family.pairs_pixels:
                        following = other * form.pixel + part * lanes
                    elif 2 * pair + 1 < self.family.planes:
                        following = at + count
                    if following is not None:
                        second = T.bind(self.source[T.ramp(following, 1, lanes)])
                        low = low | T.shift_left(second, splat(4, lanes))
                        high = high | (second & splat(0xF0, lanes))
                    for half, rows in enumerate((low, high)):
                        to = start + pixel * steps + (2 * pair + half) * count + part * lanes
                        table = T.broadcast(T.int32(pair * ROWS * ROW_BYTES if self.levels else 0), lanes)
                        offset = T.cast(T.reinterpret(byte, rows), wide) * T.broadcast(T.int32(ROW_BYTES), lanes)
                        T.buffer_store(self.counts, offset + table, [T.ramp(to, 1, lanes)])

        if shape.kernel == (1, 1):
            # Strides leave out most pixels.
            with T.serial(0, shape.out_height) as y, T.serial(0, shape.out_width) as x:
                row = y * shape.strides[0] + shape.origin[0]
                rows_of(T.bind(row * form.padded_width + x * shape.strides[1] + shape.origin[1]))
        else:
            with T.serial(0, form.padded_height * form.padded_width) as pixel:
                rows_of(pixel)

    def popcount(self, pixel: Expr, plane: int) -> Expr:
        """Ones in a plane of a pixel; of levels, the sum of its codes."""
        if not self.levels:
            return super().popcount(pixel, plane)
        held = registers(1, "int32")
        T.buffer_store(held, T.int32(0), [0])
        for j, factor in enumerate(self.family.integers):
            T.buffer_store(held, held[0] + super().popcount(pixel, j) * factor, [0])
        return held[0]

    def task(self, index: Expr) -> None:
        """The tiles of some rows, all of one piece before the next."""
        block, group = self.place(index, self.shape.tile_rows // self.rows)
        block, first = T.bind(block), T.bind(group * self.rows)
        if self.pieces == 1:
            repeat(self.rows, lambda row: self.row(block, T.bind(first + row)))
            return
        columns, pixels = self.shape.tile_columns, self.tile.pixels
        across = -(-columns // pixels)
        tiles = self.rows * across
        channels = self.family.channels
        size = self.pairs * self.pixels * self.tile.blocks * channels
        elements = stack_buffer(tiles * size, self.family.total)

        def place(number: Expr) -> tuple[Expr, Expr]:
            column = T.bind(T.min(number % across * pixels, columns - pixels))
            return T.bind(first + number // across), column

        with T.serial(0, tiles * size // channels) as number:
            T.buffer_store(elements, zero(f"uint16x{channels}"), [T.ramp(number * channels, 1, channels)])
        with T.serial(0, self.pieces) as piece, T.serial(0, tiles) as number:
            self.start = T.bind(number * size)
            for part in self._passes(block, self.bases(block, *place(number)), elements):
                part.add_piece(piece)
        with T.serial(0, tiles) as number:
            self.start = T.bind(number * size)
            self.finish(block, *place(number), elements)

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums of a tile as single elements, in passes of as many pixels as registers allow."""
        count = self.pairs * self.pixels * self.tile.blocks
        elements = stack_buffer(count * self.family.channels, self.family.total)
        for part in self._passes(block, bases, elements):
            part.store_all()
        return elements

    def _passes(self, block: Expr, bases: Sequence[Expr], elements: Any) -> list[Pass]:
        groups = pass_groups(self.offsets(), self.family.pairs_pixels)
        first = workspace_size(self.shape, self.rule)
        size = max(1, PASS_OUTPUTS // (self.shape.weight_planes * self.tile.blocks))
        parts = [groups[at : at + size] for at in range(0, len(groups), size)]
        return [Pass(self, block, [first + bases[group[0]] for group in part], part, elements) for part in parts]

    def total(self, totals: Any, i: int, j: int, m: int, n: Expr) -> Expr:
        """Sums of pixel m and vector n of `lanes` channels: int32."""
        lanes = self.isa.lanes
        at = self.start + self.index(i, j, m, 0) * self.family.channels + n * lanes
        return T.cast(totals[T.ramp(at, 1, lanes)], f"int32x{lanes}")

    def narrow(self, totals: Any) -> Any:
        """They are."""
        return totals
