"""From the sums that the threads of a block hold in fragments to the epilogue of warps, on tensor cores.

Groups of warps that share the depth add up their sums, threads combine them, and values pass through shared memory, for
a warp of the epilogue has 32 channels of a pixel.

Layouts of fragments: PTX ISA, "Matrix Fragments for mma.m16n8k256"; those of bytes are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .combine import combine
from .cuda_contraction import Spot, WarpContraction
from .cuda_tensor_tile import COLUMNS, ROWS, Block, TensorTile
from .cuda_warp import COLUMN, CTA, LANE, LANES, SAMPLES, WARP, Warp, div, mod
from .isa import Expr
from .problem import Problem


@dataclass(frozen=True, kw_only=True)
class Fragments(Warp):
    """Vector operations where each thread holds a channel of its own choice: indices are complete."""

    def load(self, buffer: Expr, index: Expr) -> Expr:
        """One element."""
        return buffer[index]


class TensorSums(WarpContraction):
    """Emits what follows the main loop of a thread block.

    Attributes:
        group, warp: number of the thread's group of warps, and of its warp in the group.
        shared: uint8 memory of the block.
        counts: ones of each plane and row, where `counted`.
    """

    tile: TensorTile
    group: Expr
    warp: Expr
    shared: Any
    counts: Any

    windowed = False  # dense, with structural zeros and, of bits, a mask

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        rule, epilogue = self.rule, self.epilogue
        self.block = Block(tile=self.tile, shape=self.shape, rule=rule)
        self.height, self.width = self.block.height, self.block.width
        self.pixels = self.height // self.window
        self.kind = "int32" if epilogue.mode in ("integer", "sums") else "float64"
        self.counted = rule.bipolar and rule.mask_plane < 0

    def value_row(self) -> int:
        """Bytes of the values of a row of the tile."""
        return self.width * (4 if self.kind == "int32" else 8)

    def taken_rows(self) -> int:
        """Rows of each warp whose values pass through shared memory at a time: whole fragments and whole windows."""
        rows = self.block.fragments[0] * ROWS
        while rows % (2 * ROWS) == 0 and rows * self.block.grid[0] * self.value_row() > self.block.room:
            rows //= 2
        return rows

    def spot(self, row: Expr) -> Spot:
        """What row number `row` of the tile computes; rows behind the last one repeat it."""
        pixel = T.min(CTA * self.pixels + T.min(div(row, self.window), self.pixels - 1), SAMPLES * self.rows - 1)
        sample, rest = div(pixel, self.rows), mod(pixel, self.rows)
        position = mod(row, self.window)
        rows, columns = self.shape.pool
        return Spot(
            sample=T.bind(sample),
            y=T.bind(div(rest, self.shape.tile_columns) * rows + div(position, columns)),
            x=T.bind(mod(rest, self.shape.tile_columns) * columns + mod(position, columns)),
        )

    def place(self, i: int, j: int, m: int, n: int) -> int:
        """First accumulator of a fragment of a pair of planes."""
        rows, columns = self.block.fragments
        return (((i * self.rule.act_planes + j) * rows + m) * columns + n) * 4

    def add_groups(self, sums: Any) -> None:
        """Adds the sums of all groups to those of the first one, a pair of planes at a time."""
        block, threads = self.block, self.block.group * LANES
        count, others = block.sums(block.grid) // block.pairs, self.tile.split - 1
        held = T.decl_buffer((others * count * threads,), "int32", data=self.shared.data, scope="shared")
        thread = T.bind(self.warp * LANES + LANE)
        for pair in range(block.pairs):
            T.evaluate(T.tvm_storage_sync("shared"))
            with T.If(self.group > 0), T.Then():
                for index in range(count):
                    place = ((self.group - 1) * count + index) * threads + thread
                    T.buffer_store(held, sums[pair * count + index], [place])
            T.evaluate(T.tvm_storage_sync("shared"))
            with T.If(self.group == 0), T.Then():
                for index in range(count):
                    total = sums[pair * count + index]
                    for other in range(others):
                        total = total + held[(other * count + index) * threads + thread]
                    T.buffer_store(sums, total, [pair * count + index])

    def count_rows(self) -> None:
        """Ones in each plane of each row's window, into shared memory: warps take rows in turn."""
        with T.serial(0, self.height // self.block.warps) as turn:
            row = T.bind(turn * self.block.warps + WARP)
            held = self.count([T.bind(self.base(self.spot(row), COLUMN))])
            for j in range(self.rule.act_planes):
                T.buffer_store(self.counts, held[j], [j * self.height + row])

    def each_sum(self, sums: Any, fragment_rows: range, body: Any) -> None:
        """Calls ``body(row, column, sum_of)`` for every output that a thread of the first group holds."""
        if self.tile.split == 1:
            self.each_own_sum(sums, fragment_rows, body)
            return
        with T.If(self.group == 0), T.Then():
            self.each_own_sum(sums, fragment_rows, body)

    def each_own_sum(self, sums: Any, fragment_rows: range, body: Any) -> None:
        """Calls ``body(row, column, sum_of)`` for every output that the thread holds."""
        rows, columns = self.block.fragments
        first_row = T.bind(div(self.warp, self.block.grid[1]) * (rows * ROWS) + div(LANE, 4))
        first_column = T.bind(mod(self.warp, self.block.grid[1]) * (columns * COLUMNS) + mod(LANE, 4) * 2)
        for m in fragment_rows:
            for part in range(2):
                row = T.bind(first_row + (m * ROWS + part * 8))
                for n in range(columns):
                    for side in range(2):
                        held = part * 2 + side

                        def sum_of(i: int, j: int, m: int = m, n: int = n, held: int = held, row: Expr = row) -> Expr:
                            value = sums[self.place(i, j, m, n) + held]
                            if not self.rule.bipolar:
                                return value
                            if self.counted:
                                return value + value - self.counts[j * self.height + row]
                            return value + value - sums[self.place(self.rule.mask_plane, j, m, n) + held]

                        body(row, T.bind(first_column + (n * COLUMNS + side)), sum_of)

    def store_pairs(self, row: Expr, column: Expr, sum_of: Any) -> None:
        """The integers themselves, of one sample."""
        spot, shape, rule = self.spot(row), self.shape, self.rule
        for i in range(rule.weight_basis):
            for j in range(rule.act_planes):
                line = (i * rule.act_planes + j) * shape.out_height + spot.y
                at = (line * shape.out_width + spot.x) * self.channels + COLUMN * self.width + column
                T.buffer_store(self.outputs[0], sum_of(i, j), [at])

    def through_shared(self, sums: Any) -> None:
        """Values of the tile through shared memory to the epilogue, some rows of each warp at a time."""
        rows, taken = self.block.fragments[0] * ROWS, self.taken_rows()
        size = taken * self.block.grid[0] * self.width
        tile = T.decl_buffer((size,), self.kind, data=self.shared.data, scope="shared")
        fragments = Fragments()
        for first in range(0, rows, taken):

            def put(row: Expr, column: Expr, sum_of: Any, first: int = first) -> None:
                channel = T.bind(COLUMN * self.width + column)
                value = combine(fragments, self.rule, self.epilogue, self.basis, self.channels, channel, sum_of)
                local = row if taken == rows else div(row, rows) * taken + mod(row, rows) - first
                T.buffer_store(tile, value, [local * self.width + column])

            def row_of(local: Expr, first: int = first) -> Expr:
                return local if taken == rows else div(local, taken) * rows + first + mod(local, taken)

            if first:
                T.evaluate(T.tvm_storage_sync("shared"))
            self.each_sum(sums, range(first // ROWS, (first + taken) // ROWS), put)
            T.evaluate(T.tvm_storage_sync("shared"))
            self.finish_rows(tile, taken * self.block.grid[0], row_of)

    def finish_rows(self, tile: Any, count: int, row_of: Callable[[Expr], Expr]) -> None:
        """The epilogue of values in shared memory: a warp a pixel and 32 channels.

        Args:
            tile: the values of some rows.
            count: how many.
            row_of: number of a row in the tile of the block.
        """
        window = self.window
        vectors = count // window * self.tile.blocks
        with T.serial(0, -(-vectors // self.block.warps)) as turn:
            vector = T.bind(T.min(turn * self.block.warps + WARP, vectors - 1))
            local, n = T.bind(div(vector, self.tile.blocks) * window), T.bind(mod(vector, self.tile.blocks))
            pooled: Expr = None
            for position in range(window):
                value = tile[(local + position) * self.width + n * LANES + LANE]
                pooled = T.bind(value if pooled is None else T.max(pooled, value))
            spot = self.spot(row_of(local))
            self.emitter.sample = spot.sample
            y, x = T.bind(div(spot.y, self.shape.pool[0])), T.bind(div(spot.x, self.shape.pool[1]))
            self.emitter.emit(pooled, y, x, T.bind(COLUMN * self.tile.blocks + n))
