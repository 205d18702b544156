"""Levels, codes and bit planes: round trips, order, ties and every error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lqcompile import encoding
from lqcompile.errors import EncodingError

seeds = st.integers(0, 2**32 - 1)
bits = st.integers(1, encoding.MAX_BITS)


@given(seed=seeds, k=st.integers(1, 8), size=st.integers(0, 40))
def test_codes_survive_splitting_and_joining(seed: int, k: int, size: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << k, (size, 3))
    planes = encoding.code_bits(codes, k)
    assert planes.shape == (k, size, 3)
    assert planes.dtype == np.uint8
    assert np.array_equal(encoding.bits_to_codes(planes), codes)
    assert np.array_equal(planes[0], codes % 2)


@given(seed=seeds, length=st.integers(1, 200), word_bits=st.sampled_from([8, 16, 32, 64]))
def test_planes_survive_packing(seed: int, length: int, word_bits: int) -> None:
    planes = np.random.default_rng(seed).integers(0, 2, (3, length))
    packed = encoding.pack_planes(planes, word_bits)
    assert packed.dtype.itemsize * 8 == word_bits
    assert packed.shape == (3, -(-length // word_bits))
    assert np.array_equal(encoding.unpack_planes(packed, length), planes)
    assert not encoding.unpack_planes(packed, packed.shape[1] * word_bits)[:, length:].any()
    for row, word_row in zip(planes, packed, strict=True):
        value = sum(int(bit) << n for n, bit in enumerate(row))
        assert value == sum(int(word) << (n * word_bits) for n, word in enumerate(word_row))


@given(seed=seeds, k=bits, offset=st.floats(-2, 2))
def test_levels_are_ascending_and_carry_their_codes(seed: int, k: int, offset: float) -> None:
    basis = np.random.default_rng(seed).normal(size=k)
    levels, codes = encoding.activation_levels(basis, offset)
    assert (np.diff(levels) >= 0).all()
    assert sorted(codes) == list(range(1 << k))
    for level, code in zip(levels, codes, strict=True):
        expected = offset + sum(basis[j] for j in range(k) if code >> j & 1)
        assert level == pytest.approx(expected, abs=1e-12)


@given(seed=seeds, k=bits, offset=st.floats(-2, 2))
def test_weight_levels_have_bits_of_either_sign(seed: int, k: int, offset: float) -> None:
    basis = np.random.default_rng(seed).normal(size=k)
    levels, codes = encoding.weight_levels(basis, offset)
    assert (np.diff(levels) >= 0).all()
    for level, code in zip(levels, codes, strict=True):
        expected = offset + sum(basis[i] * (1 if code >> i & 1 else -1) for i in range(k))
        assert level == pytest.approx(expected, abs=1e-12)


def test_equal_levels_keep_the_order_of_their_codes() -> None:
    levels, codes = encoding.activation_levels([1.0, 1.0, 0.0])
    assert levels.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert codes.tolist() == [0, 4, 1, 2, 5, 6, 3, 7]


@given(seed=seeds, k=bits)
def test_encoding_picks_the_nearest_level(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    levels, _ = encoding.activation_levels(np.abs(rng.normal(size=k)) + 0.01)
    x = rng.normal(size=50) * 3
    found = levels[encoding.encode(x, encoding.midpoint_thresholds(levels))]
    assert np.allclose(np.abs(x - found), np.abs(x[:, None] - levels).min(axis=1), atol=1e-12)


@given(seed=seeds)
@settings(max_examples=25)
def test_encoding_counts_the_thresholds_below(seed: int) -> None:
    rng = np.random.default_rng(seed)
    thresholds = np.sort(rng.integers(-3, 4, 7)).astype(np.float32)
    x = rng.integers(-5, 6, (4, 5)).astype(np.float32)
    found = encoding.encode(x, thresholds)
    assert found.dtype == np.uint8
    assert np.array_equal(found, (x[..., None] > thresholds).sum(axis=-1))


def test_comparison_is_strict_and_in_the_dtype_of_the_values() -> None:
    tenth = np.float32(0.1)
    thresholds = np.array([tenth], dtype=np.float32)
    assert encoding.encode(tenth, thresholds) == 0
    assert encoding.encode(np.nextafter(tenth, np.float32(1)), thresholds) == 1


def test_nan_exceeds_no_threshold_and_infinity_every_one() -> None:
    assert encoding.encode([np.nan, np.inf, -np.inf], [0.0, 1.0]).tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encoding.code_bits([0, 4], 2), r"^codes: found values 0\.\.4, expected 0\.\.3$"),
        (lambda: encoding.code_bits([-1, 1], 2), r"^codes: found values -1\.\.1, expected 0\.\.3$"),
        (
            lambda: encoding.pack_planes(np.zeros((1, 8), np.uint8), 12),
            r"^packing word: found 12 bits, expected 8, 16, 32 or 64$",
        ),
        (
            lambda: encoding.pack_planes(np.array([[0, 2]])),
            r"^bit planes: found values 0\.\.2, expected only 0 and 1$",
        ),
        (
            lambda: encoding.unpack_planes(np.zeros((1, 2), np.uint8), 17),
            r"^packed planes: found 16 bits per plane, expected at least 17$",
        ),
    ],
)
def test_errors_say_what_was_found_and_expected(call, message: str) -> None:
    with pytest.raises(EncodingError, match=message):
        call()
