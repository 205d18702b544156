"""How far float32 arithmetic in any order of summation may be from exact arithmetic.

The model is the standard one (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, sections 2.2 and
3.1): one operation has a relative error of at most u = 2^-24, and a sum of n products, in whatever order, an error of
at most ``gamma_n * sum |w||a|`` with ``gamma_n = n u / (1 - n u)``. Every rule below bounds the error of one operation
from the error of its inputs; they are worst cases, so a difference beyond the bound is never rounding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lqcompile.encoding import code_bits
from lqcompile.graph.plan import AnyQuantizer, AveragePool, Contraction, HardSwish, Leaky, MaxPool
from lqcompile.graph.specs import LowBitWeights, Quantizer
from lqcompile.reference.epilogue import max_pool
from lqcompile.reference.execute import average_pool
from lqcompile.reference.sums import convolve

U = 2.0**-24
"""Unit roundoff of float32."""

SLACK = 1.01
"""Covers the rounding of the bounds themselves, which are summed in float32, and terms of second order."""

SOFTMAX_ERROR = 1e-5
"""Absolute: implementations approximate the exponential to about 1e-6 of values that are at most 1."""

Float64 = npt.NDArray[np.float64]
Error = Float64
"""A bound per element, or one for all elements where it has no dimensions."""


def level_error(quantizer: AnyQuantizer, real: npt.NDArray[np.float32]) -> Error:
    """How far the float32 levels `real` are from those that contractions compute with.

    Those are ``offset + scale * sum_j basis[j] * c_j`` and ``(q - zero_point) * scale`` in real numbers.
    """
    if not isinstance(quantizer, Quantizer):
        return np.asarray(U * float(np.abs(real).max(initial=0.0)))
    bits = code_bits(quantizer.codes, quantizer.bits).astype(np.float64)
    exact = quantizer.offset + float(quantizer.scale) * (quantizer.basis.astype(np.float64) @ bits)
    return np.asarray(np.abs(quantizer.levels - exact).max())


def depth(contraction: Contraction) -> int:
    """Products per output of a contraction."""
    return int(np.prod(contraction.weights.shape[1:]))


def contraction_error(contraction: Contraction, x: npt.NDArray[np.float32], error: Error, extra: int = 0) -> Error:
    """Error of a convolution or linear layer.

    Args:
        contraction: low-bit weights are summed from their basis in float32 too, 8-bit ones multiplied by their scale.
        x: its real input, [N, C, H, W].
        error: of `x`.
        extra: further roundings of each product: of a longer sum that this one is part of.

    Returns:
        float64[N, O, OH, OW].
    """
    weights, geometry = contraction.weights, contraction.geometry
    magnitude = np.abs(weights.dequantize().astype(np.float64)).reshape(len(weights.dequantize()), -1, *geometry.kernel)
    scaled = _gamma(depth(contraction) + 4 + extra) * magnitude
    if isinstance(weights, LowBitWeights):
        total = np.abs(weights.basis).sum(axis=1) * np.abs(weights.scale) + np.abs(weights.offset)
        scaled = scaled + (weights.bits + 3) * U * total.astype(np.float64)[:, None, None, None]
    bound = convolve(np.abs(x), scaled.astype(np.float32), geometry).astype(np.float64)
    if error.ndim:
        bound += convolve(error, magnitude.astype(np.float32), geometry)
    else:
        bound += (magnitude.sum(axis=(1, 2, 3)) * error)[:, None, None]
    return SLACK * bound


def affine_error(scale: Float64, magnitude: Float64, y: npt.NDArray[np.float32], error: Error, extra: int = 0) -> Error:
    """Error of ``y = x * scale + shift``, or of a batch normalization.

    A batch normalization costs at most 4.5 u of ``|x * scale|``, 5.5 u of the parts of its shift and u of ``|y|``
    (square root, division and products of its parameters in float32); the plan rounds to float32 at most twice. With
    ``|x * scale| <= |y| + |shift|`` 8 u of ``|y| + 2 |shift|`` cover it.

    Args:
        scale: float64[C].
        magnitude: of what the shift is summed from, float64[C].
        y: the result, [N, C, ...].
        error: of x.
        extra: further roundings in which the shift takes part: those of the sum it may be the start of.

    Returns:
        float64[N, C, ...].
    """
    along = (-1, *([1] * (y.ndim - 2)))
    size = np.abs(y.astype(np.float64)) + 2 * magnitude.reshape(along)
    return np.abs(scale).reshape(along) * error + (8 + extra) * U * size


def leaky_error(leaky: Leaky, y: npt.NDArray[np.float32], error: Error) -> Error:
    """Error of a LeakyRelu or PRelu with the result `y`: one product on either side."""
    along = (-1, *([1] * (y.ndim - 2)))
    return np.maximum(np.abs(leaky.slope), 1).reshape(along) * error + 3 * U * np.abs(y.astype(np.float64))


def steepest(swish: HardSwish) -> float:
    """Largest slope of a HardSwish: ``2 alpha x + beta`` where its line is between 0 and 1, 0 or 1 elsewhere."""
    return max(1.0, abs(swish.beta), abs(2 - swish.beta))


def hard_swish_error(swish: HardSwish, x: npt.NDArray[np.float32], error: Error) -> Error:
    """Error of a HardSwish of `x`: of its line, at most 3 u of what that is summed from, and of the product."""
    size = np.abs(x.astype(np.float64))
    line = 3 * U * (abs(swish.alpha) * size + abs(swish.beta) + 1)
    return SLACK * (steepest(swish) * error + size * (line + 2 * U))


def product_error(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], errors: tuple[Error, Error]
) -> Error:
    """Error of a product, of which the plan rounds one more time: the first factor may not have been rounded."""
    a, b = np.abs(first.astype(np.float64)), np.abs(second.astype(np.float64))
    return SLACK * (a * errors[1] + b * errors[0] + errors[0] * errors[1] + 3 * U * a * b)


def max_pool_error(pool: MaxPool, x: npt.NDArray[np.float32], error: Error) -> Error:
    """Error of a maximum: that of the worst element of its window."""
    return max_pool(np.broadcast_to(error, x.shape).astype(np.float64), pool)


def average_pool_error(pool: AveragePool, x: npt.NDArray[np.float32], error: Error) -> Error:
    """Error of a mean: the mean of the errors, and the rounding of the sum."""
    count = pool.kernel[0] * pool.kernel[1]
    spread = average_pool(np.broadcast_to(error, x.shape).astype(np.float32), pool)
    return SLACK * (spread + _gamma(count + 3) * average_pool(np.abs(x), pool))


def crossing_distance(
    x: Float64, found: npt.NDArray[np.integer], expected: npt.NDArray[np.integer], quantizer: AnyQuantizer
) -> Float64:
    """Largest distance of a value from the thresholds between two of its codes.

    Args:
        x: the value before the quantizer, float64[n].
        found: one code, [n].
        expected: another, [n], different everywhere.
        quantizer: of both.

    Returns:
        float64[n].
    """
    low = np.minimum(found, expected).astype(np.int64)
    high = np.maximum(found, expected).astype(np.int64) - 1
    if isinstance(quantizer, Quantizer):
        thresholds = quantizer.thresholds.astype(np.float64)
        farthest: Float64 = np.maximum(np.abs(x - thresholds[low]), np.abs(x - thresholds[high]))
        return farthest
    below, above = ((code + 0.5 - quantizer.zero_point) * float(quantizer.scale) for code in (low, high))
    # Dividing by the scale rounds once more, on both sides.
    result: Float64 = np.maximum(np.abs(x - below), np.abs(x - above)) - 2 * U * np.abs(x)
    return result


def _gamma(count: int) -> float:
    return count * U / (1 - count * U)
