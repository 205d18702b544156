"""Plane sums, offset rows and integer products against the definition of a convolution, on random shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import random_geometry

from lqcompile.graph.plan import Geometry
from lqcompile.reference import sums
from lqcompile.reference.direct import conv2d_float64

seeds = st.integers(0, 2**32 - 1)
bits = st.integers(1, 4)


def random_layer(seed: int) -> tuple[np.random.Generator, Geometry, tuple[int, int, int], tuple[int, int, int, int]]:
    """A geometry with the shapes of an image and of weights that fit it."""
    rng = np.random.default_rng(seed)
    group, depth, per_group = (int(v) for v in rng.integers(1, 4, 3))
    geometry = random_geometry(rng, group)
    image = (group * depth, int(rng.integers(5, 9)), int(rng.integers(5, 9)))
    return rng, geometry, image, (group * per_group, depth, *geometry.kernel)


@given(seed=seeds, weight_bits=bits, act_bits=bits)
@settings(max_examples=25, deadline=None)
def test_plane_sums_are_inner_products_of_signs_and_bits(seed: int, weight_bits: int, act_bits: int) -> None:
    rng, geometry, image, shape = random_layer(seed)
    codes = rng.integers(0, 2, (2, act_bits, *image)).astype(np.uint8)
    planes = rng.integers(0, 2, (shape[0], weight_bits, int(np.prod(shape[1:])))).astype(np.uint8)
    found = sums.plane_sums(codes, planes, shape, geometry)
    assert found.dtype == np.int64
    for i in range(weight_bits):
        kernel = 2.0 * planes[:, i].reshape(shape) - 1.0
        for j in range(act_bits):
            expected = conv2d_float64(codes[:, j].astype(np.float64), kernel, geometry)
            assert np.array_equal(found[:, i, j], expected)


@given(seed=seeds, weight_bits=bits, act_bits=bits)
@settings(max_examples=15, deadline=None)
def test_offset_rows_count_windows_and_valid_positions(seed: int, weight_bits: int, act_bits: int) -> None:
    rng, geometry, image, shape = random_layer(seed)
    codes = rng.integers(0, 2, (2, act_bits, *image)).astype(np.uint8)
    planes = rng.integers(0, 2, (shape[0], weight_bits, int(np.prod(shape[1:])))).astype(np.uint8)
    ones, inside = np.ones(shape), np.ones((1, *image))
    window = sums.window_sums(codes, shape[0], geometry)
    for j in range(act_bits):
        assert np.array_equal(window[:, j], conv2d_float64(codes[:, j].astype(np.float64), ones, geometry))
    valid = sums.valid_sums(planes, image, geometry)
    for i in range(weight_bits):
        kernel = 2.0 * planes[:, i].reshape(shape) - 1.0
        assert np.array_equal(valid[i], conv2d_float64(inside, kernel, geometry)[0])
    assert np.array_equal(sums.valid_counts(image, geometry), conv2d_float64(inside, ones, geometry)[0, 0])


@pytest.mark.parametrize("seed", range(5))
def test_sums_beyond_float32_stay_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(200, 256, (1, 700, 3, 3))
    weights = rng.integers(100, 128, (2, 700, 3, 3))
    found = sums.integer_sums(x, weights, Geometry(kernel=(3, 3)))
    expected = [int((x[0] * kernel).sum()) for kernel in weights]
    assert min(expected) > sums.FLOAT32_EXACT
    assert found.ravel().tolist() == expected


def test_a_sum_above_24_bits_by_one_is_not_lost() -> None:
    x = np.array([1 << 24, 1]).reshape(1, 2, 1, 1)
    assert sums.integer_sums(x, np.ones((1, 2, 1, 1), np.int8), Geometry()).item() == (1 << 24) + 1


@pytest.mark.parametrize("seed", range(3))
def test_chunks_of_samples_give_the_same_sums(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, geometry, image, shape = random_layer(seed)
    x, weights = rng.integers(-9, 10, (5, *image)), rng.integers(-9, 10, shape)
    whole = sums.integer_sums(x, weights, geometry)
    monkeypatch.setattr(sums, "CHUNK_BYTES", 1)
    assert np.array_equal(sums.integer_sums(x, weights, geometry), whole)


def test_direct_convolution_of_a_worked_example() -> None:
    x = np.arange(9.0).reshape(1, 1, 3, 3)
    kernel = np.array([[1.0, 2.0], [3.0, 4.0]]).reshape(1, 1, 2, 2)
    geometry = Geometry(kernel=(2, 2), strides=(2, 2), pads=(1, 1, 0, 0))
    # Windows start at row and column -1 and 1: 4*0, 3*1 + 4*2, 2*3 + 4*6, 1*4 + 2*5 + 3*7 + 4*8.
    assert conv2d_float64(x, kernel, geometry).tolist() == [[[[0.0, 11.0], [30.0, 67.0]]]]
