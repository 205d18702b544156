"""Packed constants against naive indexing, and integer thresholds against every sum."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lqcompile.schedules.contraction import tile_weights
from plans import random_int8, random_low_bit, random_quantizer, random_uniform

from lqcompile.graph.plan import Affine, AnyQuantizer, AnyWeights, Clamp, Contraction, Geometry, Output, Value
from lqcompile.lowering import parameters as pack

SEEDS = pytest.mark.parametrize("seed", range(4))


def contraction_of(weights: AnyWeights, group: int = 1) -> Contraction:
    outputs, depth, *kernel = weights.shape
    geometry = Geometry(kernel=(kernel[0], kernel[1]), group=group)
    return Contraction(weights=weights, geometry=geometry, in_shape=(depth * group, 9, 9), out_shape=(outputs, 7, 7))


@SEEDS
def test_tile_weights_put_every_word_in_its_place(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs, planes, rows, columns, words, vectors = (int(v) for v in rng.integers(1, 4, 6))
    lanes, tile_blocks = 8, int(rng.integers(1, 3))
    blocks = tile_blocks * 2
    outputs += lanes
    array = rng.integers(0, 1 << 32, (outputs, planes, rows, columns, words, vectors)).astype(np.uint32)
    flat = tile_weights(array, blocks, tile_blocks, lanes)
    assert flat.shape == (blocks * lanes * planes * rows * columns * words * vectors,)
    tiled = flat.reshape(blocks // tile_blocks, rows, columns, words, planes, tile_blocks, vectors, lanes)
    for place in np.ndindex(tiled.shape):
        tile, r, c, w, plane, block, part, lane = place
        channel = (tile * tile_blocks + block) * lanes + lane
        expected = array[channel, plane, r, c, w, part] if channel < outputs else 0
        assert tiled[place] == expected


@SEEDS
@pytest.mark.parametrize("group", [1, 3])
def test_sign_words(seed: int, group: int) -> None:
    """Bytes of -1 and +1, 0 where a channel belongs to another group; the plane of an offset is +1."""
    rng = np.random.default_rng(seed)
    outputs, depth, bits = 2 * group, int(rng.integers(1, 7)), int(rng.integers(1, 4))
    weights = random_low_bit(rng, (outputs, depth, 2, 3), bits, offset=True)
    planes = pack.weight_planes(contraction_of(weights, group), np.zeros(outputs, np.bool_))
    words = pack.pack_sign_words(planes)
    signs = np.ascontiguousarray(words).view(np.int8).reshape(*words.shape[:4], -1)
    assert words.shape[:4] == (outputs, bits + bool(weights.offset.any()), 2, 3)
    dense = weights.bits_array().reshape(outputs, bits, depth, 2, 3)
    for o, i, r, c, k in np.ndindex(signs.shape):
        inside = o // 2 == k // depth and k < depth * group
        sign = 2 * int(dense[o, i, k % depth, r, c]) - 1 if inside and i < bits else 1
        assert signs[o, i, r, c, k] == (sign if inside else 0)


@SEEDS
def test_bit_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (2, 3, 37, 1, 2)).astype(np.uint8)
    words = pack.pack_bit_words(bits)
    assert words.shape == (2, 3, 1, 2, 2, 1)
    for o, p, c, y, x in np.ndindex(bits.shape):
        assert words[o, p, y, x, c // 32, 0] >> (c % 32) & 1 == bits[o, p, c, y, x]
    assert not (words[..., 1, 0] >> np.uint32(5)).any()


@SEEDS
def test_nibbles(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (2, 3, 37, 1, 2)).astype(np.uint8)
    nibbles = pack.pack_nibbles(bits)
    assert nibbles.shape == (2, 3, 1, 2, 8, 2)
    assert nibbles.max() <= 15
    for o, p, c, y, x in np.ndindex(bits.shape):
        assert nibbles[o, p, y, x, c // 8, c // 4 % 2] >> (c % 4) & 1 == bits[o, p, c, y, x]
    assert not (nibbles[..., 4, 1] >> 1).any() and not nibbles[..., 5:, :].any()


@SEEDS
@pytest.mark.parametrize("largest", [0, 1, 7, 60, 130, 255])
def test_sixteen_bit_runs_hold_for_every_code(seed: int, largest: int) -> None:
    """The worst codes, 0 or the largest for each weight's sign, against every run of the length that is claimed."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 4)), int(rng.integers(1, 40)), int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    values = rng.integers(-128, 128, shape).astype(np.int8) // (1 << int(rng.integers(0, 7)))
    run = pack.sixteen_bit_run(values, largest)
    words = -(-shape[1] // 4)
    assert run == shape[3] * words or run == 0 or words % run == 0

    def largest_sum(length: int) -> int:
        moved = np.pad(np.moveaxis(values, 1, -1).astype(int), [(0, 0)] * 3 + [(0, -shape[1] % 4)])
        rows = moved.reshape(*moved.shape[:2], -1, length, 2, 2)
        worst = [(rows * np.where(rows > 0, first, largest - first)).sum(axis=(-3, -1)) for first in (0, largest)]
        return max(int(np.abs(sums).max()) for sums in worst)

    assert run == 0 or largest_sum(run) <= 32767
    longer = [size for size in (*range(1, words + 1), shape[3] * words) if size > run]
    longer = [size for size in longer if words % size == 0 or size == shape[3] * words]
    assert all(largest_sum(size) > 32767 for size in longer)


@SEEDS
@pytest.mark.parametrize("vectors", [1, 2, 4])
def test_byte_words(seed: int, vectors: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-128, 128, (3, 7, 2, 1)).astype(np.int8)
    words = pack.pack_byte_words(values, vectors)
    assert words.shape == (3, 1, 2, 1, 2, vectors)
    parts = words.view(np.int8 if vectors == 1 else np.int16).reshape(3, 2, 1, 2, vectors, 4 // vectors)
    for o, c, y, x in np.ndindex(values.shape):
        place = {1: (0, c % 4), 2: (c % 2, c % 4 // 2), 4: (c % 4, 0)}[vectors]
        assert parts[(o, y, x, c // 4, *place)] == values[o, c, y, x]
    assert parts[:, :, :, 1].reshape(3, 2, -1)[:, :, -1].any() == False  # noqa: E712 - NumPy's bool


def test_float_words() -> None:
    values = np.random.default_rng(0).normal(size=(3, 5, 2, 1)).astype(np.float32)
    words = pack.pack_float_words(values)
    assert words.shape == (3, 1, 2, 1, 5, 1)
    np.testing.assert_array_equal(words[:, 0, ..., 0], np.moveaxis(values, 1, -1))


@SEEDS
def test_dense_weights_are_zero_between_groups(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9, (6, 2, 1, 1))
    dense = pack.dense(values, Geometry(group=3), 6)
    for o, c in np.ndindex(6, 6):
        assert dense[o, c, 0, 0] == (values[o, c % 2, 0, 0] if c // 2 == o // 2 else 0)
    assert pack.dense(values, Geometry(), 2) is values


@SEEDS
@pytest.mark.parametrize("group", [1, 2])
def test_weight_planes_negate_the_channels_asked_for(seed: int, group: int) -> None:
    rng = np.random.default_rng(seed)
    weights = random_low_bit(rng, (4, 3, 2, 2), 2, offset=True)
    flips = rng.random(4) < 0.5
    planes = pack.weight_planes(contraction_of(weights, group), flips)
    count = planes.basis.shape[1]
    signs = 2.0 * planes.bits[:, :count] - 1.0
    mask = planes.bits[:, planes.mask_plane] if group > 1 else np.ones((4, 3, 2, 2))
    assert (planes.mask_plane >= 0) == (group > 1)
    real = np.einsum("op,opcyx->ocyx", planes.basis, signs) * mask
    expected = pack.dense(weights.dequantize(), Geometry(group=group), 3 * group)
    np.testing.assert_allclose(real, np.where(flips[:, None, None, None], -expected, expected), atol=1e-6)


def chain(rng: np.random.Generator, outputs: int, bound: int) -> tuple[tuple[object, ...], Output]:
    """Stages of either direction, constant ones among them, and an output with stages of its own."""
    scale = rng.normal(size=outputs) / bound
    scale[0] = 0.0
    first = Affine(scale=scale, shift=rng.normal(size=outputs) * 0.2)
    own = Affine(scale=rng.normal(size=outputs), shift=rng.normal(size=outputs) * 0.1)
    quantizer = random_quantizer(rng, int(rng.integers(1, 5)))
    output = Output(value=Value(name="y", shape=(outputs,), quantizer=quantizer), stages=(own,))
    return (first, Clamp(low=-0.7, high=0.9)), output


@SEEDS
def test_integer_thresholds_give_the_level_of_every_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    outputs = 6
    bound = np.full(outputs, int(rng.integers(20, 200)))
    stages, output = chain(rng, outputs, int(bound[0]))
    signs = pack.scale_signs((*stages, *output.stages))
    assert signs is not None and signs.any()
    thresholds = output.value.quantizer.thresholds

    def value_of(sums: np.ndarray) -> np.ndarray:
        real = np.where(signs[:, None], ~sums, sums).astype(np.float64)
        return pack.stream_values(real, stages, output)

    limits = pack.integer_thresholds(value_of, thresholds, bound + 1)
    assert limits.shape == (len(thresholds), outputs) and limits.dtype == np.int32
    sums = np.arange(-bound[0], bound[0] + 1)[None].repeat(outputs, axis=0)
    expected = (pack.stream_values(sums.astype(np.float64), stages, output)[..., None] > thresholds).sum(axis=-1)
    compared = np.where(signs[:, None], ~sums, sums)
    np.testing.assert_array_equal((compared[None] > limits[..., None]).sum(axis=0), expected)
    assert len(np.unique(expected)) > 1


def test_thresholds_out_of_reach_saturate() -> None:
    bound = np.asarray([2**31])
    always = pack.integer_thresholds(lambda sums: np.ones(sums.shape, np.float32), np.float32([0.0]), bound)
    never = pack.integer_thresholds(lambda sums: np.zeros(sums.shape, np.float32), np.float32([0.0]), bound)
    assert (always.item(), never.item()) == (-(2**31), 2**31 - 1)


def test_scale_signs_multiply() -> None:
    def affine(*scale: float) -> Affine:
        return Affine(scale=np.asarray(scale), shift=np.zeros(len(scale)))

    assert pack.scale_signs(()) is None
    assert pack.scale_signs((Clamp(low=0, high=1),)) is None
    signs = pack.scale_signs((affine(-1, -1, 1), Clamp(low=0, high=1), affine(-2, 2, 0)))
    np.testing.assert_array_equal(signs, [False, True, False])


@SEEDS
@pytest.mark.parametrize("kind", ["int8", "integer", "float"])
def test_sum_bound_is_reached_by_no_sum(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    quantizer: AnyQuantizer
    if kind == "int8":
        weights: AnyWeights = random_int8(rng, (3, 4, 2, 2))
        quantizer = random_uniform(rng)
        largest = np.abs(weights.values.astype(int)).reshape(3, -1).sum(axis=1) * 255
    else:
        weights = random_low_bit(rng, (3, 4, 2, 2), 2, integer=kind == "integer")
        quantizer = random_quantizer(rng, 3, integer=kind == "integer")
        largest = np.full(3, 16)
        if kind == "integer":
            largest = np.abs(weights.integers().astype(int)).reshape(3, -1).sum(axis=1) * int(quantizer.basis.sum())
    assert (pack.sum_bound(contraction_of(weights), quantizer) >= largest).all()


def test_per_channel_fills_up() -> None:
    np.testing.assert_array_equal(pack.per_channel([1, 2], 4, "float32", 7.0), np.float32([1, 2, 7, 7]))


def test_evaluate_stages_rounds_each_operation_once() -> None:
    scale, shift = np.asarray([1 + 2.0**-30]), np.asarray([-1.0])
    values = np.asarray([[1 + 2.0**-30]])
    # The square is 1 + 2^-29 + 2^-60: the last term is lost when the product is rounded.
    result = pack.evaluate_stages(values, (replace(Affine(scale=scale, shift=shift)),))
    assert result.item() == np.float32(2.0**-29)


def test_rows_of_taps_are_pairs_of_16_bits() -> None:
    values = np.random.default_rng(0).integers(-128, 128, (5, 3, 2, 3)).astype(np.int8)
    words = pack.pack_row_words(values)
    assert (words.dtype, words.shape) == (np.int32, (5, 1, 2, 1, 5, 1))
    pairs = words.view(np.int16).reshape(5, 2, 10)
    np.testing.assert_array_equal(pairs[:, :, :9], values.transpose(0, 2, 3, 1).reshape(5, 2, 9))
    assert not pairs[:, :, 9].any()
