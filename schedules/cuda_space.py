"""What a tuner may choose on NVIDIA GPUs: tiles of warps on CUDA cores, tiles of thread blocks on tensor cores."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from .cuda_contraction import WarpTile
from .cuda_tensor_tile import CHUNKS, MOST_WARPS, STAGES, WORDS, Block, TensorTile
from .problem import ConvShape, SumRule
from .space import MORE_REGISTERS, Space, distinct

PIXELS = (1, 2, 4, 8, 16)
"""Of a warp."""

WARPS = (4, 1, 2, 8)
"""Of a thread block on CUDA cores, what a schedule takes by itself first."""

ROWS = (128, 64, 32, 16)
"""Pixels of a thread block on tensor cores."""

SPLITS = (1, 2, 4, 8)
"""Groups of warps that share the depth."""


def warp_space(best: WarpTile, shape: ConvShape, accumulators: float, counts: Sequence[int]) -> Space:
    """Tiles of a warp on CUDA cores.

    Args:
        best: what the schedule's model picks.
        shape: loop nest.
        accumulators: of one pixel and 32 channels each, that a thread has registers for.
        counts: blocks of 32 channels that a tile may have.
    """
    rows = shape.tile_rows * shape.tile_columns
    tiles = [
        replace(best, pixels=pixels, blocks=count)
        for count in counts
        for pixels in PIXELS
        if pixels * count <= accumulators * MORE_REGISTERS and (pixels == 1 or pixels < 2 * rows)
    ]
    return Space(tiles=distinct([best, *tiles]), knobs={"warps": WARPS})


def tensor_space(best: TensorTile, shape: ConvShape, rule: SumRule, counts: Sequence[int]) -> Space:
    """Tiles of a thread block on tensor cores: what fits registers and shared memory.

    Chunks, stages and splits are parts of the tile: which of them fit depends on it.

    Args:
        best: what the schedule's model picks.
        shape: loop nest.
        rule: how sums combine.
        counts: blocks of 32 channels that a tile may have.
    """
    tiles = []
    for rows, count, chunk, split in itertools.product(ROWS, counts, CHUNKS, SPLITS):
        for stages in range(STAGES, 1, -1):
            tile = TensorTile(pixels=rows, blocks=count, unroll=chunk, split=split, stages=stages)
            block = Block(tile=tile, shape=shape, rule=rule)
            slices = -(-block.depth // WORDS)
            # A chunk as long as two depths is mostly zeros, and each group needs two of them to overlap anything.
            useful = chunk < 2 * slices and (split == 1 or block.chunks >= 2 * split)
            if shape.blocks % count == 0 and useful and block.warps <= MOST_WARPS and block.fits(stages):
                tiles.append(tile)
    return Space(tiles=distinct([best, *tiles]))
