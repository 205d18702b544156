"""Integer bases: a float basis snapped to small integers times one scale.

With ``basis = scale * integers`` a layer is a single integer sum, which every kernel computes alike ("Integer bases" in
docs/onnx-contract.md). The fit tries every total up to the limit and keeps the one with the smallest squared error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lqcompile.encoding import MAX_BITS, SCALE_BITS
from lqcompile.errors import EncodingError


class IntegerBasis(NamedTuple):
    """Rows of integers and the scale of each row."""

    integers: npt.NDArray[np.int64]
    """int64[C, K]"""
    scale: npt.NDArray[np.float64]
    """float64[C], positive, at most `SCALE_BITS` significant bits"""


def round_to_significant_bits(values: npt.ArrayLike, bits: int = SCALE_BITS) -> npt.NDArray[np.float64]:
    """Round each value to the nearest one with at most `bits` significant bits, half to even.

    Example:
        >>> round_to_significant_bits([1.0, 0.3], 2).tolist()
        [1.0, 0.25]
    """
    mantissa, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    result: npt.NDArray[np.float64] = np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits)
    return result


def snap_basis(basis: npt.ArrayLike, limit: int, *, nonnegative: bool = False) -> IntegerBasis:
    """Snap each row of a basis to integers times one scale.

    For every total from 1 to `limit` the row is scaled to that total and rounded; the scale is then the least-squares
    one, rounded to 16 significant bits. The candidate of smallest squared error wins, the smaller total on a tie.
    Errors no larger than what rounding a scale makes count as equal: small integers let kernels add up more products,
    and a basis of one bit is 1.

    Args:
        basis: float[C, K], finite.
        limit: largest allowed sum of magnitudes in a row (127 for weights, 255 for activations, or less).
        nonnegative: entries below zero become 0, as activation bases require.

    Returns:
        The integers and scales; a row of zeros gets scale 1.

    Raises:
        EncodingError: `basis` is not a finite matrix of 1 to 4 columns, or `limit` is below its number of columns.

    Example:
        >>> snap_basis([[0.5, 1.0]], 127).integers.tolist()
        [[1, 2]]
    """
    rows = np.asarray(basis, dtype=np.float64)
    if rows.ndim != 2 or not 1 <= rows.shape[1] <= MAX_BITS:
        raise EncodingError(f"basis to snap: found shape {rows.shape}, expected [C, K] with 1 <= K <= {MAX_BITS}")
    if not np.isfinite(rows).all():
        raise EncodingError("basis to snap: found NaN or infinity, expected finite values; check the training run")
    if limit < rows.shape[1]:
        raise EncodingError(f"limit of integer basis: found {limit}, expected at least {rows.shape[1]}")
    if nonnegative:
        rows = np.maximum(rows, 0.0)
    magnitude = np.abs(rows).sum(axis=1)
    # A dead row would divide by zero; any finite stand-in gives the zeros it needs.
    safe = np.where(magnitude > 0, magnitude, 1.0)

    totals = np.arange(1, limit + 1, dtype=np.float64)
    candidates = np.rint(rows[:, None, :] * (totals[None, :, None] / safe[:, None, None]))
    squared = (candidates**2).sum(axis=2)
    scales = (rows[:, None, :] * candidates).sum(axis=2) / np.where(squared > 0, squared, 1.0)
    scales = round_to_significant_bits(scales)
    errors = ((rows[:, None, :] - scales[:, :, None] * candidates) ** 2).sum(axis=2)
    errors = np.maximum(errors, (rows**2).sum(axis=1, keepdims=True) * 4.0**-SCALE_BITS)
    errors[(np.abs(candidates).sum(axis=2) > limit) | (squared == 0)] = np.inf

    row_index = np.arange(len(rows))
    best = errors.argmin(axis=1)
    dead = magnitude == 0
    integers = np.where(dead[:, None], 0.0, candidates[row_index, best]).astype(np.int64)
    return IntegerBasis(integers, np.where(dead, 1.0, scales[row_index, best]))
