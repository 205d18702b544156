"""Constants of a kernel: packed weights, bases, affine maps and integer thresholds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.encoding import pack_planes
from lqcompile.graph.plan import Affine, Clamp, Contraction, Geometry, Leaky, Output, Stage
from lqcompile.graph.specs import Int8Weights, LowBitWeights, Quantizer, UniformQuantizer

Float64Array = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PlaneSet:
    """Weights as bit planes.

    Args:
        bits: uint8[O, planes, C, kh, kw] of 0/1, dense.
        basis: float64[O, basis planes]: v_i, then w0 where a layer has one.
        integers: int64[O, basis planes] m_i, or None.
        mask_plane: index of the plane that holds 1 for every weight that exists (grouped convolutions), or -1.
    """

    bits: npt.NDArray[np.uint8]
    basis: Float64Array
    integers: Int64Array | None
    mask_plane: int


def kernel_shape(contraction: Contraction) -> tuple[int, int, int, int]:
    """[O, C/group, kh, kw] of the weights; a linear layer has a 1x1 kernel."""
    shape = contraction.weights.shape
    return (shape[0], shape[1], *contraction.geometry.kernel)


def dense(values: npt.NDArray[Any], geometry: Geometry, channels: int) -> npt.NDArray[Any]:
    """Grouped weights as dense ones with zeros: [O, C/group, ...] -> [O, C, ...]."""
    if geometry.group == 1:
        return values
    result = np.zeros((values.shape[0], channels, *values.shape[2:]), values.dtype)
    outputs, inputs = values.shape[0] // geometry.group, values.shape[1]
    for group in range(geometry.group):
        rows = slice(group * outputs, (group + 1) * outputs)
        result[rows, group * inputs : (group + 1) * inputs] = values[rows]
    return result


def weight_planes(contraction: Contraction, flips: npt.NDArray[np.bool_]) -> PlaneSet:
    """Bit planes of low-bit weights, with the channels in `flips` negated."""
    weights = contraction.weights
    if not isinstance(weights, LowBitWeights):
        raise TypeError("bit planes need low-bit weights")
    outputs, inputs, rows, columns = kernel_shape(contraction)
    bits = weights.bits_array().reshape(outputs, weights.bits, inputs, rows, columns)
    bits = np.where(flips[:, None, None, None, None], 1 - bits, bits)
    channels = contraction.in_shape[0]
    geometry = contraction.geometry
    basis = weights.scale[:, None].astype(np.float64) * weights.basis.astype(np.float64)
    integers = weights.basis.astype(np.int64) if weights.integer_basis else None
    planes = [dense(bits[:, i], geometry, channels) for i in range(weights.bits)]
    mask = dense(np.ones((outputs, inputs, rows, columns), np.uint8), geometry, channels)
    if weights.offset.any():
        planes.append(mask)
        signs = np.where(flips, -1.0, 1.0)
        basis = np.concatenate([basis, (weights.offset * signs)[:, None].astype(np.float64)], axis=1)
    mask_plane = -1
    if geometry.group > 1:
        mask_plane = len(planes)
        planes.append(mask)
    return PlaneSet(bits=np.stack(planes, axis=1), basis=basis, integers=integers, mask_plane=mask_plane)


def pack_bit_words(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """uint8[O, P, C, kh, kw] -> uint32[O, P, kh, kw, ceil(C/32), 1]."""
    words: npt.NDArray[np.uint32] = pack_planes(np.moveaxis(bits, 2, -1), 32).astype(np.uint32)
    return words[..., None]


def pack_nibbles(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """uint8[O, P, C, kh, kw] -> uint8[O, P, kh, kw, 4 ceil(C/32), 2]: four channels to a byte, low nibbles first."""
    octets = pack_bit_words(bits)[..., 0].view(np.uint8)
    return np.stack([octets & 15, octets >> 4], axis=-1)


def pack_sign_words(planes: PlaneSet) -> npt.NDArray[np.int32]:
    """Planes that have a basis vector as bytes: int32[O, P, kh, kw, ceil(C/4), 1] of -1 and +1, 0 outside the group."""
    count = planes.basis.shape[1]
    exists = planes.bits[:, planes.mask_plane] if planes.mask_plane >= 0 else np.ones_like(planes.bits[:, 0])
    signs = [(2 * planes.bits[:, plane].astype(np.int8) - 1) * exists.astype(np.int8) for plane in range(count)]
    return np.concatenate([pack_byte_words(plane, 1) for plane in signs], axis=1)


def pack_byte_words(values: npt.NDArray[np.int8], vectors: int) -> npt.NDArray[Any]:
    """int8[O, C, kh, kw] -> int32 or int16[O, 1, kh, kw, ceil(C/4), vectors].

    One vector: four bytes to a word. Two vectors: channels 0, 2 and channels 1, 3 of a word as 16-bit pairs. Four
    vectors: each channel of a word as 16 bits.
    """
    moved = np.moveaxis(values, 1, -1)
    tail = -moved.shape[-1] % 4
    quads = np.pad(moved, [(0, 0)] * 3 + [(0, tail)]).reshape(*moved.shape[:-1], -1, 4)
    if vectors == 1:
        words = np.ascontiguousarray(quads).view(np.int32)
    elif vectors == 2:
        pairs = np.stack([quads[..., [0, 2]], quads[..., [1, 3]]], axis=-2).astype(np.int16)
        words = np.ascontiguousarray(pairs).view(np.int32)[..., 0]
    else:
        words = quads.astype(np.int16)
    result: npt.NDArray[Any] = words.reshape(*words.shape[:4], vectors)[:, None]
    return result


def pack_row_words(values: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """int8[O, C, kh, kw] -> int32[O, 1, kh, 1, ceil(kw*C/2), 1]: a row of taps as pairs of 16 bits."""
    outputs, channels, rows, columns = values.shape
    row = np.moveaxis(values, 1, -1).reshape(outputs, rows, columns * channels).astype(np.int16)
    pairs = np.ascontiguousarray(np.pad(row, [(0, 0), (0, 0), (0, row.shape[2] % 2)])).view(np.int32)
    return pairs[:, None, :, None, :, None]


def sixteen_bit_run(values: npt.NDArray[np.int8], largest: int) -> int:
    """How many words of four bytes times bytes can be summed in 16 bits, two products to a sum, whatever the codes.

    Every partial sum lies between the sums of its positive and of its negative products.

    Args:
        values: weights, int8[O, C, kh, kw].
        largest: code, 0 to 255; the smallest is 0.

    Returns:
        Words of a row of taps if their sums fit, else a number that divides the words of a tap; 0: not even one fits.
    """
    moved = np.moveaxis(values, 1, -1).astype(np.int16)
    padded = np.pad(moved, [(0, 0)] * 3 + [(0, -moved.shape[-1] % 4)])
    pairs = padded.reshape(*moved.shape[:3], -1, 2, 2)
    words = pairs.shape[3]
    limit = np.iinfo(np.int16).max // max(largest, 1)
    signs = [np.maximum(side[..., 0], 0) + np.maximum(side[..., 1], 0) for side in (pairs, -pairs)]
    if all(sums.sum(axis=(2, 3)).max() <= limit for sums in signs):
        return int(moved.shape[2] * words)
    for run in range(words, 0, -1):
        if words % run == 0 and all(
            sums.reshape(*moved.shape[:3], words // run, run, 2).sum(axis=4).max() <= limit for sums in signs
        ):
            return run
    return 0


def pack_float_words(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """float32[O, C, kh, kw] -> float32[O, 1, kh, kw, C, 1]."""
    return np.ascontiguousarray(np.moveaxis(values, 1, -1))[:, None, ..., None]


def per_channel(values: npt.ArrayLike, count: int, dtype: str, fill: float = 0.0) -> npt.NDArray[Any]:
    """A channel vector of `count` elements, filled up with `fill`."""
    array = np.asarray(values)
    result = np.full(count, fill, dtype)
    result[: len(array)] = array
    return result


def scale_signs(stages: Sequence[Stage]) -> npt.NDArray[np.bool_] | None:
    """Channels in which the affine maps together reverse the order, or None where there is no affine map."""
    signs: npt.NDArray[np.bool_] | None = None
    for stage in stages:
        if isinstance(stage, Affine):
            negative = stage.scale < 0
            signs = negative if signs is None else signs ^ negative
    return signs


def evaluate_stages(values: Float64Array, stages: Sequence[Stage]) -> npt.NDArray[np.float32]:
    """Monotone maps on float64[O, ...], each operation rounded once, then one rounding to float32."""
    shape = (-1, *([1] * (values.ndim - 1)))
    for stage in stages:
        if isinstance(stage, Affine):
            values = values * stage.scale.reshape(shape) + stage.shift.reshape(shape)
        elif isinstance(stage, Clamp):
            values = np.minimum(np.maximum(values, stage.low), stage.high)
        elif isinstance(stage, Leaky):
            values = np.maximum(values, 0.0) + stage.slope.reshape(shape) * np.minimum(values, 0.0)
    return values.astype(np.float32)


def stream_values(values: Float64Array, stages: Sequence[Stage], output: Output) -> npt.NDArray[np.float32]:
    """What the quantizer of `output` compares, from y: both chains of stages with their roundings."""
    stream = evaluate_stages(values, stages)
    return evaluate_stages(stream.astype(np.float64), output.stages) if output.stages else stream


def integer_thresholds(
    value_of: Callable[[Int64Array], npt.NDArray[np.float32]], thresholds: npt.NDArray[np.float32], bound: Int64Array
) -> npt.NDArray[np.int32]:
    """Thresholds on the integer sum that give the same level as float thresholds on its value.

    `value_of` is the canonical chain from sums to compared values; it rises with the sum, so each float threshold has
    one largest sum that does not exceed it, found by bisection on the chain itself.

    Args:
        value_of: int64[O, L] sums -> float32[O, L].
        thresholds: float32[L].
        bound: int64[O]: sums lie in -bound..bound.

    Returns:
        int32[L, O]: ``value_of(T) > thresholds[l]`` exactly where ``T > result[l]``.
    """
    count = len(thresholds)
    low = np.repeat(-bound[:, None] - 1, count, axis=1)
    high = np.repeat(bound[:, None], count, axis=1)
    while (high > low).any():
        middle = low + (high - low + 1) // 2
        above = value_of(middle) > thresholds[None, :]
        high = np.where(above, middle - 1, high)
        low = np.where(above, low, middle)
    # Sums fit int32, but bounds just outside the largest ones do not.
    limits = np.iinfo(np.int32)
    return np.clip(low.T, limits.min, limits.max).astype(np.int32)


def real_thresholds(
    value_of: Callable[[Float64Array], npt.NDArray[np.float32]],
    thresholds: npt.NDArray[np.float32],
    bound: Float64Array,
) -> Float64Array:
    """Thresholds on float64 values that give the same level as float32 thresholds on what becomes of them.

    As `integer_thresholds`, by bisection over the float64 numbers within the bound, in their order.

    Args:
        value_of: the canonical chain, float64[O, L] -> float32[O, L], rising.
        thresholds: float32[L].
        bound: float64[O], positive: values lie in -bound..bound.

    Returns:
        float64[L, O]: ``value_of(y) > thresholds[l]`` exactly where ``y > result[l]``; -inf where it always holds.
    """
    largest = np.repeat(bound.view(np.int64)[:, None], len(thresholds), axis=1)
    low, high = -largest - 1, largest.copy()
    while (high > low).any():
        middle = (low | high) - ((low ^ high) >> 1)  # the mean, rounded up, without overflow
        above = value_of(_from_order(middle)) > thresholds[None, :]
        high = np.where(above, middle - 1, high)
        low = np.where(above, low, middle)
    return np.where(low < -largest, -np.inf, _from_order(np.maximum(low, -largest))).T


def _from_order(rank: Int64Array) -> Float64Array:
    """The float64 of a rank: ranks rise with the numbers, 0 is +0.0 and -1 the largest number below."""
    magnitude = np.abs(rank).view(np.float64)
    result: Float64Array = np.where(rank < 0, -magnitude, magnitude)
    return result


def sum_bound(contraction: Contraction, quantizer: Quantizer | UniformQuantizer) -> Int64Array:
    """Largest absolute value of the integer sum per output channel: int64[O].

    A basis of zero counts as one: kernels of one plane pair leave it to the epilogue and store what it multiplies.
    """
    weights = contraction.weights
    if isinstance(weights, Int8Weights):
        magnitude = np.abs(weights.values.astype(np.int64)).reshape(weights.shape[0], -1).sum(axis=1)
        products: Int64Array = magnitude * 255
        return products
    if not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
        raise TypeError("integer sums need low-bit or 8-bit weights")
    count = int(np.prod(weights.shape[1:]))
    if weights.integer_basis and quantizer.integer_basis:
        per_weight = np.maximum(np.abs(weights.basis.astype(np.int64)).sum(axis=1), 1)
        largest: Int64Array = per_weight * count * max(int(quantizer.basis.sum()), 1)
        return largest
    return np.full(weights.shape[0], count, np.int64)
