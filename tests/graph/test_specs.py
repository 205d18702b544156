import dataclasses

import numpy as np
import pytest

from lqcompile.encoding import pack_planes
from lqcompile.graph.specs import FloatWeights, Int8Weights, LowBitWeights, Quantizer, UniformQuantizer


def low_bit_weights(rng: np.random.Generator, *, integer: bool) -> tuple[LowBitWeights, np.ndarray]:
    bits = rng.integers(0, 2, (5, 3, 2 * 3 * 3))
    basis = rng.integers(1, 42, (5, 3)) if integer else rng.random((5, 3))
    weights = LowBitWeights(
        planes=pack_planes(bits).astype(np.uint8),
        basis=basis.astype(np.float32),
        offset=np.zeros(5, np.float32) if integer else rng.normal(size=5).astype(np.float32),
        scale=np.full(5, 0.375 if integer else 1, np.float32),
        integer_basis=integer,
        shape=(5, 2, 3, 3),
    )
    return weights, bits


@pytest.mark.parametrize("integer", [False, True])
def test_low_bit_weights(integer):
    weights, bits = low_bit_weights(np.random.default_rng(7), integer=integer)
    assert weights.bits == 3
    np.testing.assert_array_equal(weights.bits_array(), bits)
    signs = 2.0 * bits - 1
    total = sum(weights.basis[:, i, None].astype(np.float64) * signs[:, i] for i in range(3))
    expected = weights.offset[:, None].astype(np.float64) + weights.scale[:, None].astype(np.float64) * total
    found = weights.dequantize()
    assert (found.dtype, found.shape) == (np.float32, weights.shape)
    np.testing.assert_allclose(found.reshape(5, -1), expected, rtol=1e-6, atol=1e-7)
    if integer:
        np.testing.assert_array_equal(found.reshape(5, -1), expected)
        assert weights.integers().dtype == np.int8
        np.testing.assert_array_equal(weights.integers().reshape(5, -1), total)


def test_int8_and_float_weights():
    rng = np.random.default_rng(8)
    values = rng.integers(-128, 128, (4, 3, 2, 2)).astype(np.int8)
    scale = rng.random(4).astype(np.float32)
    weights = Int8Weights(values=values, scale=scale)
    assert (weights.bits, weights.shape) == (8, (4, 3, 2, 2))
    np.testing.assert_array_equal(weights.dequantize(), values.astype(np.float32) * scale[:, None, None, None])
    floats = FloatWeights(values=weights.dequantize())
    assert (floats.bits, floats.shape) == (32, (4, 3, 2, 2))
    np.testing.assert_array_equal(floats.dequantize(), weights.dequantize())


def test_quantizers_know_their_bits():
    levels = np.array([0, 1, 2, 3], np.float32)
    quantizer = Quantizer(
        name="q",
        thresholds=levels[1:] - 0.5,
        levels=levels,
        basis=np.array([1, 2], np.float32),
        codes=np.arange(4, dtype=np.uint8),
        offset=0.0,
        scale=1.0,
        integer_basis=True,
    )
    assert quantizer.bits == 2
    assert UniformQuantizer(name="q", scale=np.float32(0.1), zero_point=3, dtype="uint8").bits == 8


def test_specs_are_frozen_copies():
    values = np.ones((2, 2), np.float32)
    weights = FloatWeights(values=values)
    values[0, 0] = 5
    assert weights.values[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        weights.values[0, 0] = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        weights.values = values
