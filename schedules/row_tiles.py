"""Loop nests over register tiles: some pixels of a row of outputs by some vectors of channels.

How the sums of a tile come about is a builder's own; what they become is the same for all.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from .combine import combine
from .isa import Expr, Registers, broadcast, registers, vector
from .nest import NestBuilder
from .problem import CHANNELS_OUTERMOST, Problem, basis_dtype
from .window_counts import count_windows, pixel_ones


class RowTileBuilder(NestBuilder):
    """A task is a row of tiles; a builder with tasks of its own overrides `task`.

    Attributes:
        pixels: of a tile, before pooling.
        vectors: of channels that a tile hands to the epilogue.
    """

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        self.pixels = self.tile.pixels * self.shape.pool[0] * self.shape.pool[1]
        self.vectors = self.tile.blocks * self.split
        self.tasks = -(-self.shape.blocks // self.vectors) * self.shape.tile_rows

    @abstractmethod
    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums of a tile over all taps.

        Args:
            block: index of the vectors of channels.
            bases: element of the input at which the first tap of each pixel starts.

        Returns:
            What `total` reads.
        """

    def weight_size(self) -> int:
        """Elements of the packed weights."""
        shape = self.shape
        taps = shape.kernel[0] * shape.kernel[1] * shape.words
        channels = -(-shape.blocks // self.vectors) * self.tile.blocks * self.family.channels
        return taps * shape.weight_planes * channels * self.family.vectors

    def pixel_elements(self) -> int:
        """Elements from one pixel to the next of what `accumulate` reads."""
        return self.shape.source.pixel

    def prepare(self) -> None:
        """Counts the ones under each window."""
        count_windows(self.counts, self.shape, self.rule.act_planes, self.popcount)

    def popcount(self, pixel: Expr, plane: int) -> Expr:
        """Ones in one plane of a pixel."""
        return pixel_ones(self.source, self.shape.source, pixel, plane)

    def task(self, index: Expr) -> None:
        """A row of tiles."""
        block, row = self.place(index, self.shape.tile_rows)
        self.row(T.bind(block), T.bind(row))

    def place(self, index: Expr, rows: int) -> tuple[Expr, Expr]:
        """Which vectors of channels, and which of `rows` rows of tasks, task number `index` is of."""
        if self.tile.order == CHANNELS_OUTERMOST:
            return index // rows, index % rows
        blocks = self.tasks // rows
        return index % blocks, index // blocks

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

    def index(self, i: int, j: int, m: int, n: int) -> int:
        """Place of an accumulator: weight plane i, activation plane j, pixel m and vector n of the tile."""
        return ((i * self.rule.act_planes + j) * self.pixels + m) * self.tile.blocks + n

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

    def _tile(self, block: Expr, row: Expr, column: Expr) -> None:
        self._prefetch(block, row, column)
        self.finish(block, row, column, self.accumulate(block, self.bases(block, row, column)))

    def _prefetch(self, block: Expr, row: Expr, column: Expr) -> None:
        """Brings the float32 lines that the epilogue of a tile reads and writes into the cache."""
        if isinstance(self.isa, Registers) and self.isa.prefetches and self.emitter.has_streams():
            for pixel in range(self.tile.pixels):
                self.emitter.prefetch(row, column + pixel, block * self.vectors, self.vectors)

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
