"""Winograd's F(m x m, r x r) with m + r = 7 on cells of pixels: convolutions of large taps with a stride.

A convolution of k x k taps at stride s is one of r x r taps at stride 1, r = ceil(k / s), on *cells* of s x s pixels.
Input tiles d of 6x6 cells and taps g (`schedules.winograd` has the form) meet at the points 0, 1, -1, 2, -2, infinity:

    576 Y = A (U * V) A^T,  U = G g G^T,  V = B d B^T,

    G, r = 4:  6  0  0   0    B = 4  0 -5  0  1  0    A, m = 3:  1  1  1  1  1  0
              -4 -4 -4  -4        0 -4 -4  1  1  0               0  1 -1  2 -2  0
              -4  4 -4   4        0  4 -4 -1  1  0               0  1  1  4  4  2
               1  2  4   8        0 -2 -1  2  1  0
               1 -2  4  -8        0  2 -1 -2  1  0
               0  0  0  12        0  4  0 -5  0  1
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 6
"""Rows and columns of an input tile, in cells."""

POSITIONS = SIDE * SIDE

POINTS = ((0, 6), (1, -4), (-1, -4), (2, 1), (-2, 1))
"""Finite points, and what their row of G is multiplied by."""

AT_INFINITY = 12
"""What the last row of G is multiplied by; A has the rest, 2."""


def reach(kernel: tuple[int, int], strides: tuple[int, int]) -> int:
    """r: rows and columns of taps in cells; 0 where the convolution is not square."""
    square = kernel[0] == kernel[1] and strides[0] == strides[1]
    return -(-kernel[0] // strides[0]) if square else 0


def cell_words(stride: int, channels: int) -> int:
    """Words of two codes in a cell of pixels."""
    return -(-stride * stride * channels // 2)


def saved_products(kernel: tuple[int, int], strides: tuple[int, int], channels: int) -> int:
    """Multiplications of vectors that an output takes less than with one for each tap.

    Args:
        kernel: rows and columns of taps, equal.
        strides: of rows and columns, equal.
        channels: of a pixel; a tap of up to four of them is one multiplication of bytes.
    """
    step = SIDE + 1 - reach(kernel, strides)
    return kernel[0] * kernel[1] - POSITIONS * cell_words(strides[0], channels) // step**2


def weight_map(taps: int) -> npt.NDArray[np.int64]:
    """G for r `taps`: int64[6, r]."""
    finite = [[factor * point**power for power in range(taps)] for point, factor in POINTS]
    return np.array([*finite, [0] * (taps - 1) + [AT_INFINITY]])


def transformed(values: npt.NDArray[Any], stride: int) -> npt.NDArray[np.int32]:
    """U of weights [O, C, k, k]: int32[36, s * s * C, O]; rows of a cell, then columns, then channels."""
    outputs, channels, size, _ = values.shape
    taps = -(-size // stride)
    tail = (0, taps * stride - size)
    padded = np.pad(values.astype(np.float32), [(0, 0), (0, 0), tail, tail])
    cells = padded.reshape(outputs, channels, taps, stride, taps, stride).transpose(2, 4, 3, 5, 1, 0)
    both = np.kron(weight_map(taps), weight_map(taps)).astype(np.float32)
    # As float32, which is exact for integers below 2**24 and has a fast product of matrices.
    products = both @ np.ascontiguousarray(cells).reshape(taps * taps, -1)
    return products.astype(np.int32).reshape(POSITIONS, stride * stride * channels, outputs)
