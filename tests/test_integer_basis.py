import numpy as np
import pytest

from lqcompile.encoding import SCALE_BITS
from lqcompile.errors import EncodingError
from lqcompile.integer_basis import round_to_significant_bits, snap_basis


def significant_bits(value):
    mantissa = int(np.frexp(value)[0] * 2**53)
    return mantissa.bit_length() - (mantissa & -mantissa).bit_length() + 1


def best_error(row, limit):
    """Smallest squared error over all totals, one at a time."""
    errors = []
    for total in range(1, limit + 1):
        integers = np.rint(row * total / np.abs(row).sum())
        if not 0 < np.abs(integers).sum() <= limit:
            continue
        scale = row @ integers / (integers @ integers)
        errors.append(((row - scale * integers) ** 2).sum())
    return min(errors)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("limit", [7, 127, 255])
def test_snap_keeps_the_smallest_error(seed, bits, limit):
    rng = np.random.default_rng([seed, bits, limit])
    basis = rng.normal(1, 0.3, (16, bits)) * 2.0 ** np.arange(bits) * rng.choice([-1, 1], (16, bits))
    integers, scale = snap_basis(basis, limit)
    assert (np.abs(integers).sum(1) <= limit).all()
    assert (scale > 0).all()
    error = ((basis - integers * scale[:, None]) ** 2).sum(1)
    expected = np.array([best_error(row, limit) for row in basis])
    # Rounding the scale to 16 bits moves each entry by at most 2^-17 of itself.
    slack = (np.abs(basis).max(1) * 2.0**-16) ** 2 * bits
    assert (error <= 2 * expected + slack).all()
    assert (error >= expected * (1 - 1e-9)).all()


@pytest.mark.parametrize("seed", range(5))
def test_every_level_is_exact_in_float32(seed):
    rng = np.random.default_rng(seed)
    integers, scale = snap_basis(rng.uniform(0.01, 3, (64, 3)), 255, nonnegative=True)
    assert max(significant_bits(value) for value in scale) <= SCALE_BITS
    levels = np.arange(256) * scale[:, None]
    assert np.array_equal(levels.astype(np.float32), levels)
    assert integers.min() >= 0


def test_integers_times_a_scale_are_found_again():
    integers = np.array([[3, -7, 20], [1, 2, 4]])
    snapped = snap_basis(integers * np.array([[0.25], [1.5]]), 127)
    assert np.allclose(snapped.integers * snapped.scale[:, None], integers * np.array([[0.25], [1.5]]), atol=0)


@pytest.mark.parametrize("limit", [1, 31, 127])
def test_one_bit_is_one(limit):
    basis = np.random.default_rng(limit).uniform(1e-3, 9, (200, 1))
    snapped = snap_basis(basis, limit)
    assert (snapped.integers == 1).all()
    np.testing.assert_allclose(snapped.scale, basis[:, 0], rtol=2.0**-SCALE_BITS)


def test_the_smallest_integers_of_a_ratio_are_found():
    scale = np.random.default_rng(3).uniform(0.1, 2, (50, 1))
    assert (snap_basis(scale * [[3, 6]], 127).integers == [1, 2]).all()


def test_zero_rows_and_negative_entries():
    snapped = snap_basis([[0.0, 0.0], [-1.0, 2.0]], 255, nonnegative=True)
    assert snapped.integers[0].tolist() == [0, 0] and snapped.scale[0] == 1
    assert snapped.integers[1, 0] == 0 and snapped.integers[1, 1] * snapped.scale[1] == 2.0


def test_many_channels_are_quick():
    rng = np.random.default_rng(0)
    assert snap_basis(rng.normal(size=(512, 4)), 127).integers.shape == (512, 4)


def test_round_to_significant_bits_is_half_to_even():
    assert round_to_significant_bits([5.0, 7.0, 1.25, 0.0], 2).tolist() == [4.0, 8.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("basis", "limit", "message"),
    [
        (np.ones(3), 127, r"basis to snap: found shape \(3,\), expected \[C, K\] with 1 <= K <= 4"),
        (np.ones((2, 5)), 127, r"found shape \(2, 5\)"),
        ([[1.0, np.nan]], 127, "found NaN or infinity, expected finite values; check the training run"),
        ([[1.0, 2.0]], 1, "limit of integer basis: found 1, expected at least 2"),
    ],
)
def test_errors(basis, limit, message):
    with pytest.raises(EncodingError, match=message):
        snap_basis(basis, limit)
