"""Pairs of bit planes on Hopper's warpgroup instructions: ``wgmma.m64nNk256`` of bits, AND and population count.

Four warps multiply 64 rows by all columns of the tile with one instruction for each slice and pair of planes. Both
factors come from shared memory, where `TensorContraction` leaves them: rows of 32, 64 or 128 bytes whose halves of
slices are moved are the swizzled layouts of the instruction. It runs while the warps wait for the next chunk.

Sources: PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions" (fragments, matrix descriptor,
swizzling, and what must be fenced).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .combine import combine
from .cuda_device import device_call
from .cuda_tensor import TensorContraction, TensorWords
from .cuda_tensor_sums import Fragments
from .cuda_tensor_tile import CHUNKS, ROWS, SLICE_BYTES, STAGES, WORDS, Block, TensorTile
from .cuda_warp import COLUMN, div
from .isa import Expr
from .problem import ConvShape, Problem, SumRule, Tile
from .space import Space, distinct

GROUP_ROWS = 64
"""Of one instruction, and so of a warpgroup."""

GROUP_WARPS = 4

ALIGNMENT = 1024
"""Bytes, of eight rows of 128: what is moved within a row depends on addresses."""

SUMS = 160
"""Registers of a thread for sums: the factors take none."""

VALUE_BYTES = 8
"""Of a value on its way to the epilogue, at most."""

TILES = ((128, 4), (128, 2), (64, 8), (64, 4), (64, 2), (128, 1), (64, 1))
"""Rows, and blocks of 32 channels, best first: wide tiles read codes for more products."""


@dataclass(frozen=True, kw_only=True)
class WarpgroupBlock(Block):
    """A thread block of warpgroups, each with 64 rows and all columns."""

    @property
    def grid(self) -> tuple[int, int]:
        """Warps, as rows and columns."""
        return self.height // ROWS, 1

    def parts(self, value_bytes: int) -> int:
        """In how many parts values of whole warps and windows pass through shared memory; 0 where no part fits."""
        window = self.shape.pool[0] * self.shape.pool[1]
        for parts in range(1, self.grid[0] + 1):
            rows = self.height // parts
            whole = rows % ROWS == 0 and rows * parts == self.height and (parts == 1 or rows % window == 0)
            if whole and rows * self.width * value_bytes <= self.room:
                return parts
        return 0

    def fits(self, stages: int) -> bool:
        """Whether sums fit the registers, and so many chunks and some values the shared memory."""
        return self.sums(self.grid) <= SUMS and self.stages >= stages and self.parts(VALUE_BYTES) > 0


class WarpgroupContraction(TensorContraction):
    """Emits the tile of a thread block."""

    alignment = ALIGNMENT
    block: WarpgroupBlock

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        self.block = WarpgroupBlock(tile=self.tile, shape=self.shape, rule=self.rule)

    def shared_bytes(self) -> int:
        """Shared memory for the chunks, later for values."""
        values = 0 if self.epilogue.mode == "sums" else self.height // self.parts() * self.value_row()
        return max(self.block.stages * self.block.stage_bytes, values)

    def parts(self) -> int:
        """In how many parts values pass through shared memory."""
        return self.block.parts(self.value_row() // self.width)

    def wait(self, left: int) -> None:
        """Waits for the products of the last chunk, whose place is filled next, and for the copies of another one."""
        T.evaluate(device_call("lq_wgmma_wait", dtype="void"))
        T.evaluate(device_call(f"lq_wait{left}", dtype="void"))
        T.evaluate(device_call("lq_fence_async", dtype="void"))
        T.evaluate(T.tvm_storage_sync("shared"))

    def main_loop(self) -> Any:
        """Sums of the block's tile; nothing may touch them while products are under way."""
        sums = super().main_loop()
        for index in range(self.block.sums(self.block.grid)):
            T.evaluate(device_call("lq_settle", T.address_of(sums[index]), dtype="void"))
        return sums

    def multiply(self, sums: Any, start: Expr) -> None:
        """Begins to multiply one chunk of the depth: all pairs of planes, slice by slice."""
        block = self.block
        row = T.bind(div(self.warp, GROUP_WARPS) * GROUP_ROWS)
        T.evaluate(device_call("lq_wgmma_fence", dtype="void"))
        for part in range(self.tile.unroll):
            weights = [
                self.matrix(start + (block.act_bytes + i * self.width * block.row_bytes + part * SLICE_BYTES))
                for i in range(self.shape.weight_planes)
            ]
            for j in range(self.rule.act_planes):
                codes = self.matrix(start + (j * self.height + row) * block.row_bytes + part * SLICE_BYTES)
                for i, plane in enumerate(weights):
                    held = T.address_of(sums[self.place(i, j, 0, 0)])
                    T.evaluate(device_call(f"{self.family.instruction}{self.width}", held, codes, plane, dtype="void"))
        T.evaluate(device_call("lq_wgmma_commit", dtype="void"))

    def through_shared(self, sums: Any) -> None:
        """Values of the tile through shared memory to the epilogue, those of some warps at a time."""
        parts = self.parts()
        rows = self.height // parts
        tile = T.decl_buffer((rows * self.width,), self.kind, data=self.shared.data, scope="shared")
        fragments = Fragments()
        for part in range(parts):

            def put(row: Expr, column: Expr, sum_of: Any, part: int = part) -> None:
                channel = T.bind(COLUMN * self.width + column)
                value = combine(fragments, self.rule, self.epilogue, self.basis, self.channels, channel, sum_of)
                T.buffer_store(tile, value, [(row - part * rows) * self.width + column])

            def row_of(local: Expr, part: int = part) -> Expr:
                return local + part * rows

            if part:
                T.evaluate(T.tvm_storage_sync("shared"))
            with T.If(div(self.warp * ROWS, rows) == part), T.Then():
                self.each_sum(sums, range(1), put)
            T.evaluate(T.tvm_storage_sync("shared"))
            self.finish_rows(tile, rows, row_of)

    def matrix(self, place: Expr) -> Expr:
        """The descriptor of a matrix in shared memory."""
        address = T.address_of(self.shared[place])
        return T.bind(device_call(f"lq_matrix{self.block.row_bytes}", address, dtype="uint64"))


@dataclass(frozen=True, kw_only=True)
class B1Wgmma(TensorWords):
    """AND and population count of 64 x N x 256 bits an instruction."""

    builder = WarpgroupContraction
    weight_dtype: str = "uint32"
    instruction: str = "lq_b1wgmma"

    def fewer(self, shape: ConvShape, rule: SumRule, tile: Tile) -> None:
        """No other tile for launches of few samples."""


def warpgroup_tile(shape: ConvShape, rule: SumRule, blocks: int | None) -> TensorTile:
    """The tile: as large as registers and shared memory allow, no wider than the channels divide.

    Args:
        shape: loop nest.
        rule: how sums combine.
        blocks: 32 channels each, where they are given: so many, or as many as registers have room for.

    Raises:
        ValueError: there are more pairs of planes than `lqcompile.lowering.choose.serving` lets pass.
    """
    tiles = _tiles(shape, rule, 3) or _tiles(shape, rule, 2)
    if not tiles:
        pairs = shape.weight_planes * rule.act_planes
        raise ValueError(f"found {pairs} pairs of planes, expected as many as {SUMS} registers hold the sums of")
    if blocks is None:
        return tiles[0]
    return max((tile for tile in tiles if tile.blocks <= blocks), key=lambda tile: tile.blocks)


def warpgroup_space(best: TensorTile, shape: ConvShape, rule: SumRule) -> Space:
    """What a tuner may choose: tiles with chunks and stages that fit.

    Args:
        best: what the schedule's model picks.
        shape: loop nest.
        rule: how sums combine.
    """
    found = [tile for stages in range(STAGES, 1, -1) for tile in _tiles(shape, rule, stages)]
    return Space(tiles=distinct([best, *found]))


def _tiles(shape: ConvShape, rule: SumRule, stages: int) -> list[TensorTile]:
    """The tiles that fit with so many stages, best first."""
    found = []
    for rows, count in TILES:
        for chunk in CHUNKS:
            tile = TensorTile(pixels=rows, blocks=count, unroll=chunk, stages=stages)
            block = WarpgroupBlock(tile=tile, shape=shape, rule=rule)
            if shape.blocks % count == 0 and chunk < 2 * -(-block.depth // WORDS) and block.fits(stages):
                found.append(tile)
    return found
