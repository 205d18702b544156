"""Convolution straight from its definition: slow, and what the fast reference is tested against."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import Geometry


def conv2d_float64(
    x: npt.NDArray[np.floating], weights: npt.NDArray[np.floating], geometry: Geometry
) -> npt.NDArray[np.float64]:
    """Convolution as in ONNX Conv, one product at a time.

    Args:
        x: float[N, C, H, W]; padding pads with 0.
        weights: float[O, C/group, kh, kw].
        geometry: of the convolution.

    Returns:
        float64[N, O, OH, OW].
    """
    samples, _, height, width = x.shape
    outputs, depth, kernel_height, kernel_width = weights.shape
    out_height, out_width = geometry.output_size(height, width)
    result = np.zeros((samples, outputs, out_height, out_width))
    for o, row, column in itertools.product(range(outputs), range(out_height), range(out_width)):
        first = o // (outputs // geometry.group) * depth
        for c, i, j in itertools.product(range(depth), range(kernel_height), range(kernel_width)):
            y = row * geometry.strides[0] + i * geometry.dilations[0] - geometry.pads[0]
            z = column * geometry.strides[1] + j * geometry.dilations[1] - geometry.pads[1]
            if 0 <= y < height and 0 <= z < width:
                result[:, o, row, column] += x[:, first + c, y, z].astype(np.float64) * float(weights[o, c, i, j])
    return result
