"""Integer sums of a contraction: plane pairs, offset rows and 8-bit products.

Every sum is computed by im2col and a floating-point matrix product whose partial sums stay below the largest integer
that the dtype holds exactly, so the result is the integer sum whatever the order of summation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import Geometry, Shape

CHUNK_BYTES = 64 << 20
"""Most bytes of im2col columns that are held at once."""

FLOAT32_EXACT = 1 << 24
"""Integers up to here, and their sums while they stay up to here, are exact in float32."""


def plane_sums(
    code_bits: npt.NDArray[np.uint8],
    weight_bits: npt.NDArray[np.uint8],
    weight_shape: Shape,
    geometry: Geometry,
) -> npt.NDArray[np.int64]:
    """Inner products ``S_ij = <b_i, c_j>`` of every weight plane with every activation plane.

    Args:
        code_bits: uint8[N, Ka, C, H, W] of 0/1; outside the image every bit is 0.
        weight_bits: uint8[O, Kw, M] of 0/1, standing for -1/+1.
        weight_shape: (O, C/group, kh, kw) or (O, C), with M values per output channel.
        geometry: of the convolution.

    Returns:
        int64[N, Kw, Ka, O, OH, OW].
    """
    samples, act_bits, *image = code_bits.shape
    outputs, weight_planes, _ = weight_bits.shape
    kernels = _signs(weight_bits).reshape(outputs * weight_planes, -1, *geometry.kernel)
    sums = integer_sums(code_bits.reshape(samples * act_bits, *image), kernels, geometry)
    split = sums.reshape(samples, act_bits, weight_shape[0], weight_planes, *sums.shape[2:])
    return np.ascontiguousarray(split.transpose(0, 3, 1, 2, 4, 5))


def window_sums(code_bits: npt.NDArray[np.uint8], outputs: int, geometry: Geometry) -> npt.NDArray[np.int64]:
    """Sums of each code plane over the window: the row of a weight offset, whose bits are all +1.

    Args:
        code_bits: uint8[N, Ka, C, H, W] of 0/1.
        outputs: number of output channels O.
        geometry: of the convolution.

    Returns:
        int64[N, Ka, O, OH, OW].
    """
    samples, act_bits, channels, *size = code_bits.shape
    group = geometry.group
    ones = np.ones((group, channels // group, *geometry.kernel), dtype=np.int8)
    sums = integer_sums(code_bits.reshape(samples * act_bits, channels, *size), ones, geometry)
    return np.repeat(sums, outputs // group, axis=1).reshape(samples, act_bits, outputs, *sums.shape[2:])


def valid_sums(weight_bits: npt.NDArray[np.uint8], in_shape: Shape, geometry: Geometry) -> npt.NDArray[np.int64]:
    """Sums of each weight plane over valid positions: the column of an activation offset, 1 inside the image only.

    Args:
        weight_bits: uint8[O, Kw, M] of 0/1, standing for -1/+1.
        in_shape: (C, H, W).
        geometry: of the convolution.

    Returns:
        int64[Kw, O, OH, OW].
    """
    inside = np.ones((1, 1, *in_shape), dtype=np.uint8)
    weight_shape = (len(weight_bits), weight_bits.shape[-1])
    result: npt.NDArray[np.int64] = plane_sums(inside, weight_bits, weight_shape, geometry)[0, :, 0]
    return result


def valid_counts(in_shape: Shape, geometry: Geometry) -> npt.NDArray[np.int64]:
    """Number of window positions inside the image, per output position.

    Args:
        in_shape: (C, H, W).
        geometry: of the convolution; the channels of one group count.

    Returns:
        int64[OH, OW].
    """
    inside = np.ones((1, 1, *in_shape), dtype=np.uint8)
    result: npt.NDArray[np.int64] = window_sums(inside, geometry.group, geometry)[0, 0, 0]
    return result


def integer_sums(
    x: npt.NDArray[np.integer], weights: npt.NDArray[np.integer], geometry: Geometry
) -> npt.NDArray[np.int64]:
    """Convolution of integers, exactly; positions outside the image count as 0.

    Args:
        x: integers [N, C, H, W].
        weights: integers [O, C/group, kh, kw].
        geometry: of the convolution.

    Returns:
        int64[N, O, OH, OW].
    """
    largest = int(np.abs(x.astype(np.int64)).max(initial=0))
    total = int(np.abs(weights.astype(np.int64)).sum(axis=(1, 2, 3)).max(initial=0))
    dtype = np.float32 if largest * total <= FLOAT32_EXACT else np.float64
    return convolve(x, weights.astype(dtype), geometry).astype(np.int64)


def convolve(
    x: npt.NDArray[np.generic], weights: npt.NDArray[np.floating], geometry: Geometry
) -> npt.NDArray[np.floating]:
    """Convolution by im2col and matrix products in the dtype of `weights`, in chunks of samples.

    Args:
        x: [N, C, H, W]; converted to the dtype of `weights`.
        weights: float[O, C/group, kh, kw].
        geometry: of the convolution; the padding value is 0.

    Returns:
        [N, O, OH, OW] in the dtype of `weights`.
    """
    samples, _, height, width = x.shape
    outputs, group = len(weights), geometry.group
    rows = geometry.output_size(height, width)
    positions = rows[0] * rows[1]
    depth = weights[0].size
    matrix = weights.reshape(group, outputs // group, depth)
    result = np.empty((samples, outputs, *rows), dtype=weights.dtype)
    step = max(1, CHUNK_BYTES // (depth * group * positions * weights.itemsize))
    for start in range(0, samples, step):
        view = windows(x[start : start + step].astype(weights.dtype), geometry)
        columns = view.transpose(0, 1, 4, 5, 2, 3).reshape(len(view), group, depth, positions)
        result[start : start + step] = (matrix @ columns).reshape(len(view), outputs, *rows)
    return result


def windows(x: npt.NDArray[np.floating], geometry: Geometry, fill: float = 0.0) -> npt.NDArray[np.floating]:
    """The window of every output position: [N, C, H, W] -> [N, C, OH, OW, kh, kw], `fill` outside the image."""
    top, left, bottom, right = geometry.pads
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    dilations, strides = geometry.dilations, geometry.strides
    span = tuple(d * (k - 1) + 1 for d, k in zip(dilations, geometry.kernel, strict=True))
    view = np.lib.stride_tricks.sliding_window_view(padded, span, axis=(2, 3))
    return view[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]


def _signs(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """0/1 -> -1/+1."""
    return (bits.astype(np.int8) * 2 - 1).astype(np.int8)
