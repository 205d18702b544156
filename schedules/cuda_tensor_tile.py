"""Tiles of thread blocks for tensor cores: what a block computes, its warps, and how shared memory is used.

A block computes some pixels (rows) by some output channels (columns) for all pairs of planes. Codes and weights stream
through shared memory chunk by chunk of the depth. Warps share the tile; where a tile is split, groups of warps share
the depth instead: each has a pipeline of its own, takes every so many-th chunk, and sums are added up at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .cuda_warp import LANES
from .problem import ConvShape, SumRule, Tile

ROWS, COLUMNS, WORDS = 16, 8, 8
"""Of one instruction: pixels, channels, and words of 32 bits of the depth: a slice."""

SLICE_BYTES = 4 * WORDS

STAGES = 4
"""Most chunks of the depth that shared memory holds for a group of warps."""

SHARED_BYTES = 48 << 10
"""Static shared memory of a block."""

ACCUMULATORS = 128
"""Registers of a thread for sums."""

MOST_WARPS = 8
"""Of a split block."""

TILES = ((128, 2), (64, 2), (32, 2), (64, 1), (32, 1))
"""Rows, and blocks of 32 channels: what a block of four warps may compute, best first."""

WIDE_TILES = ((64, 4), (32, 4))
"""Likewise where so many blocks are asked for: tuners try them."""

FEWER_TILES = ((64, 2), (64, 1), (32, 1), (16, 1))
"""Likewise for launches of few samples, largest first."""

CHUNKS = (4, 2, 1)
"""Slices of a chunk, best first: rows of shared memory have 128, 64 or 32 bytes."""


@dataclass(frozen=True, kw_only=True)
class TensorTile(Tile):
    """Tile of a thread block; `Tile.unroll` counts the slices of a chunk.

    Args:
        stages: most chunks that shared memory holds for a group of warps.
    """

    stages: int = STAGES


@dataclass(frozen=True, kw_only=True)
class Block:
    """A thread block of a tile.

    Args:
        tile: of it.
        shape: loop nest.
        rule: how sums combine.
    """

    tile: TensorTile
    shape: ConvShape
    rule: SumRule

    @property
    def height(self) -> int:
        """Pixels."""
        return self.tile.pixels

    @property
    def width(self) -> int:
        """Output channels."""
        return self.tile.blocks * LANES

    @property
    def pairs(self) -> int:
        """Pairs of planes."""
        return self.shape.weight_planes * self.rule.act_planes

    @property
    def grid(self) -> tuple[int, int]:
        """Warps of a group, as rows and columns: few where groups share the depth, four otherwise."""
        grids = [(1, 1), (1, 2), (2, 2)] if self.tile.split > 1 else [(2, 2)]
        fitting = [grid for grid in grids if self.height % (grid[0] * ROWS) == 0]
        held = [grid for grid in fitting if self.sums(grid) <= ACCUMULATORS]
        return held[0] if held else (fitting or [(1, 2)])[-1]

    def sums(self, grid: tuple[int, int]) -> int:
        """Accumulators of a thread."""
        return self.pairs * self.height * self.width // (grid[0] * grid[1] * LANES)

    @property
    def group(self) -> int:
        """Warps of a group."""
        return self.grid[0] * self.grid[1]

    @property
    def warps(self) -> int:
        """Warps of the block."""
        return self.group * self.tile.split

    @property
    def fragments(self) -> tuple[int, int]:
        """Fragments of a warp, as rows and columns of its part of the tile."""
        return self.height // (self.grid[0] * ROWS), self.width // (self.grid[1] * COLUMNS)

    @property
    def depth(self) -> int:
        """Words of all taps."""
        return self.shape.kernel[0] * self.shape.kernel[1] * self.shape.words

    @property
    def chunk_words(self) -> int:
        """Words of a row of a chunk."""
        return self.tile.unroll * WORDS

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a chunk."""
        return self.tile.unroll * SLICE_BYTES

    @property
    def chunks(self) -> int:
        """Chunks of the depth."""
        return -(-self.depth // self.chunk_words)

    @property
    def steps(self) -> int:
        """Turns of the main loop: in each of them every group takes a chunk."""
        return -(-self.chunks // self.tile.split)

    @property
    def act_bytes(self) -> int:
        """Bytes of a chunk of codes."""
        return self.height * self.rule.act_planes * self.row_bytes

    @property
    def stage_bytes(self) -> int:
        """Bytes of a chunk of codes and of weights."""
        return self.act_bytes + self.width * self.shape.weight_planes * self.row_bytes

    @property
    def room(self) -> int:
        """Bytes of shared memory for chunks: what the counts of ones leave."""
        return SHARED_BYTES - (4 * self.rule.act_planes * self.height if self.rule.bipolar else 0)

    @property
    def stages(self) -> int:
        """Chunks that shared memory holds for a group."""
        return min(self.tile.stages, self.room // (self.tile.split * self.stage_bytes))

    def fits(self, stages: int) -> bool:
        """Whether the sums fit the registers, and so many chunks for each group the shared memory.

        Values of a pooling window pass through shared memory together. Windows of three pixels end within fragments:
        all values of such a tile must fit at once.
        """
        windows = ROWS % self.window == 0 or 8 * self.height * self.width <= self.room
        return self.sums(self.grid) <= ACCUMULATORS and self.stages >= stages and windows

    @property
    def window(self) -> int:
        """Pixels of a pooling window."""
        return self.shape.pool[0] * self.shape.pool[1]

    def of_samples(self, samples: int) -> int:
        """Thread blocks of a launch."""
        rows = samples * self.shape.tile_rows * self.shape.tile_columns
        return -(-rows // (self.height // self.window)) * -(-self.shape.blocks // self.tile.blocks)


def tensor_tile(shape: ConvShape, rule: SumRule, blocks: int | None) -> TensorTile:
    """The tile for large batches: as large as registers and shared memory allow, no wider than the channels divide.

    Args:
        shape: loop nest.
        rule: how sums combine.
        blocks: 32 channels each, where they are given: so many, or as many as registers have room for.

    Raises:
        ValueError: there are more pairs of planes than `lqcompile.lowering.tensor_cores.fits` lets pass.
    """
    options = list(TILES)
    if blocks is not None:
        narrow = [option for option in (*TILES, *WIDE_TILES) if option[1] <= blocks]
        options = sorted(narrow, key=lambda option: option[1], reverse=True)
    for rows, count in options:
        if shape.blocks % count == 0:
            for stages in (3, 2):
                for tile in _chunked(shape, rule, TensorTile(pixels=rows, blocks=count), stages):
                    return tile
    pairs = shape.weight_planes * rule.act_planes
    raise ValueError(f"found {pairs} pairs of planes, expected as many as {ACCUMULATORS} registers hold the sums of")


def _chunked(shape: ConvShape, rule: SumRule, tile: TensorTile, stages: int) -> Iterator[TensorTile]:
    """The tile with chunks of each size that fits; none that is twice as long as the depth."""
    slices = -(-Block(tile=tile, shape=shape, rule=rule).depth // WORDS)
    for count in CHUNKS:
        sized = replace(tile, unroll=count)
        if count < 2 * slices and Block(tile=sized, shape=shape, rule=rule).fits(stages):
            yield sized


def fewer_tile(
    shape: ConvShape, rule: SumRule, tile: TensorTile, multiprocessors: int
) -> tuple[TensorTile, int] | None:
    """The tile for launches of so few samples that `tile` would leave half of the multiprocessors idle, or more.

    It is the largest one of which there is a block for each multiprocessor. Where there is none, the smallest one, and
    groups of warps share its depth.

    Args:
        shape: loop nest.
        rule: how sums combine.
        tile: for large batches; the chunks are the same.
        multiprocessors: of the GPU.

    Returns:
        The tile, and the most samples that it is for; None where `tile` serves one sample well.
    """
    main = Block(tile=tile, shape=shape, rule=rule)
    samples = most_samples(main, multiprocessors // 2)
    if not samples:
        return None
    found = None
    for rows, count in FEWER_TILES:
        small = Block(tile=replace(tile, pixels=rows, blocks=count), shape=shape, rule=rule)
        if rows * count >= main.height * tile.blocks or shape.blocks % count or not small.fits(2):
            continue
        found = small
        if small.of_samples(1) >= multiprocessors:
            return small.tile, samples
    if found is None:
        return None
    return _split(found), samples


def most_samples(block: Block, blocks: int) -> int:
    """The most samples of which a launch has at most so many thread blocks; 0 where one sample has more."""
    columns = -(-block.shape.blocks // block.tile.blocks)
    pixels = blocks // columns * (block.height // block.window)
    return pixels // (block.shape.tile_rows * block.shape.tile_columns)


def _split(block: Block) -> TensorTile:
    """The tile with as many groups as have two chunks each, room for three stages, and the warps of a block."""
    for split in (8, 4, 2):
        parted = replace(block, tile=replace(block.tile, split=split))
        if parted.chunks >= 2 * split and parted.warps <= MOST_WARPS and parted.fits(3):
            return parted.tile
    return block.tile
