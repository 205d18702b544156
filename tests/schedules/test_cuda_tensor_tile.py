"""Tiles of thread blocks for tensor cores: they fit, and launches of few samples keep a GPU busy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from lqcompile.schedules.cuda_tensor_tile import (
    ACCUMULATORS,
    MOST_WARPS,
    SHARED_BYTES,
    Block,
    TensorTile,
    fewer_tile,
    tensor_tile,
)
from lqcompile.schedules.formats import Format
from lqcompile.schedules.problem import ConvShape, SumRule

H200, ORIN = 132, 16
"""Multiprocessors."""


def layer(
    channels: int, outputs: int, size: int, kernel: int, *, planes: int = 1, pool: tuple[int, int] = (1, 1)
) -> ConvShape:
    """A convolution of bytes, or of bits where there is more than one plane."""
    source = Format(kind="u8", channels=channels, height=size, width=size, align=32)
    return ConvShape(
        source=source,
        kernel=(kernel, kernel),
        strides=(1, 1),
        dilations=(1, 1),
        origin=(0, 0),
        out_height=size,
        out_width=size,
        blocks=-(-outputs // 32),
        words=-(-channels // 32) if planes > 1 else -(-channels // 4),
        weight_planes=planes,
        pool=pool,
    )


def check(block: Block) -> None:
    """Holds a block against what hardware allows."""
    shared = block.tile.split * block.stages * block.stage_bytes + 4 * block.rule.act_planes * block.height
    added = (block.tile.split - 1) * block.height * block.width * 4
    assert block.stages >= 2 and shared <= SHARED_BYTES and added <= block.room
    assert 16 % block.window == 0 or block.height * block.width * 8 <= SHARED_BYTES
    assert block.sums(block.grid) <= ACCUMULATORS and block.warps <= MOST_WARPS
    assert all(count > 0 for count in block.fragments) and block.fragments[1] % 2 == 0
    assert block.fragments[0] * 16 * block.grid[0] == block.height
    assert block.fragments[1] * 8 * block.grid[1] == block.width


@pytest.mark.parametrize("seed", range(3))
def test_tiles_fit_and_cover_the_multiprocessors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for weight_planes, act_planes in itertools.product(range(1, 6), range(1, 6)):
        if weight_planes * act_planes > 16:
            continue
        sizes = (
            int(rng.integers(1, 700)),
            int(rng.integers(1, 700)),
            int(rng.integers(1, 60)),
            int(rng.integers(1, 4)),
        )
        pool = ((1, 1), (2, 2), (1, 3))[rng.integers(3)] if sizes[2] > 2 else (1, 1)
        shape = layer(*sizes, planes=weight_planes, pool=pool)
        rule = SumRule(act_planes=act_planes, bipolar=True)
        main = Block(tile=tensor_tile(shape, rule, None), shape=shape, rule=rule)
        check(main)
        found = fewer_tile(shape, rule, main.tile, H200)
        if found is None:
            assert main.of_samples(1) > H200 // 2
            continue
        tile, samples = found
        fewer = Block(tile=tile, shape=shape, rule=rule)
        check(fewer)
        assert fewer.chunk_words == main.chunk_words and fewer.chunks == main.chunks, "operands differ"
        assert main.of_samples(samples) <= H200 // 2 < main.of_samples(samples + 1)
        assert fewer.of_samples(1) >= main.of_samples(1) and fewer.height * fewer.width < main.height * main.width
        if tile.split > 1:
            assert fewer.of_samples(1) < H200 and (tile.pixels, tile.blocks) == (16, 1)


def test_a_long_depth_of_few_pixels_is_split() -> None:
    """The last block of ResNet-18 at batch 1: 49 pixels of 512 channels."""
    shape, rule = layer(512, 512, 7, 3), SumRule()
    tile = tensor_tile(shape, rule, None)
    assert tile == TensorTile(pixels=128, blocks=2, unroll=2)
    found = fewer_tile(shape, rule, tile, H200)
    assert found is not None
    assert found[0] == TensorTile(pixels=16, blocks=1, unroll=2, split=4)
    assert Block(tile=found[0], shape=shape, rule=rule).of_samples(1) == 4 * 16
    assert found[1] == 66 // 8 * 128 // 49


def test_many_pixels_get_smaller_tiles_of_the_whole_depth() -> None:
    """The first block of ResNet-18 at batch 1: 25 tiles for large batches, 98 of 32 pixels, 392 of 16 by 32."""
    shape, rule = layer(64, 64, 56, 3), SumRule()
    found = fewer_tile(shape, rule, tensor_tile(shape, rule, None), H200)
    assert found is not None
    tile, samples = found
    assert tile.split == 1 and Block(tile=tile, shape=shape, rule=rule).of_samples(1) >= H200
    assert samples == 2


def test_a_small_gpu_is_full_with_one_sample() -> None:
    shape, rule = layer(64, 64, 56, 3), SumRule()
    assert fewer_tile(shape, rule, tensor_tile(shape, rule, None), ORIN) is None
