"""Whether a convolution can run on transformed tiles (`lqcompile.schedules.x86_winograd`): its shape and its values."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import Contraction
from lqcompile.schedules import cells, winograd, x86_cells
from lqcompile.schedules.x86_winograd import LARGEST_CODE, LARGEST_SUM, LARGEST_TAP, RANGE, transformed, weighed

LARGEST_BYTE = 255
"""Of 8-bit codes less their zero point, in magnitude."""

LARGEST_REACH = 4
"""Taps in cells for which V and U fit 16 bits."""


def fits(contraction: Contraction, pool: tuple[int, int]) -> bool:
    """Whether a convolution has 3x3 taps at stride 1, enough channels, and outputs for at least one tile."""
    geometry = contraction.geometry
    steps = (geometry.strides, geometry.dilations)
    channels, rows, columns = contraction.in_shape[0], *contraction.out_shape[1:]
    return geometry.group == 1 and winograd.fits(geometry.kernel, steps, channels, (rows, columns), pool)


class TileProof:
    """What the integers of a 3x3 layer prove of its products on transformed tiles.

    Args:
        values: weights, int8[O, C, 3, 3].
        largest: code; the smallest is 0.
    """

    def __init__(self, values: npt.NDArray[Any], largest: int) -> None:
        self.values, self.largest, self.channels = values, largest, values.shape[1]

    @functools.cached_property
    def _taps(self) -> npt.NDArray[np.int16] | None:
        """Transformed weights [16, C, O], channels in whole words; None where sums exceed 32 bits or codes a byte."""
        most = int(np.abs(self.values.astype(np.int64)).sum(axis=(1, 2, 3)).max()) * self.largest
        if self.largest > LARGEST_CODE or most > LARGEST_SUM:
            return None
        tail = -self.values.shape[1] % 4
        padded = np.pad(self.values, [(0, 0), (0, tail), (0, 0), (0, 0)])
        taps: npt.NDArray[np.int16] = transformed(padded.transpose(2, 3, 1, 0))
        return taps

    def fits_bytes(self) -> bool:
        """Whether transformed codes and weights fit bytes, what the output map weighs with included."""
        return self._taps is not None and int(np.abs(weighed(self._taps)).max()) <= LARGEST_TAP

    def sixteen_bit_run(self) -> int:
        """How many words of transformed products can be summed in 16 bits, whatever the codes.

        Returns:
            A number that divides the words of a pixel; 0: transformed weights or codes do not fit bytes, or not even
            the products of one word fit.
        """
        taps = self._taps
        if taps is None or int(np.abs(taps).max()) > LARGEST_TAP:
            return 0
        positions, channels, outputs = taps.shape
        words = channels // 4
        limit = np.iinfo(np.int16).max // (RANGE * max(self.largest, 1))
        # Every partial sum lies between the sums of its positive and of its negative products.
        sides = [
            np.maximum(side, 0).reshape(positions, words, 2, 2, outputs).sum(axis=3, dtype=np.int32)
            for side in (taps, -taps)
        ]
        for run in range(words, 0, -1):
            shape = (positions, words // run, run, 2 * outputs)
            if words % run == 0 and all(
                side.reshape(shape).sum(axis=2, dtype=np.int32).max() <= limit for side in sides
            ):
                return run
        return 0


def cells_serve(contraction: Contraction, values: npt.NDArray[np.int8]) -> bool:
    """Whether a first layer can run on transformed tiles of cells (`lqcompile.schedules.x86_cells`), and gains by it.

    Args:
        contraction: the layer; it reads 8-bit codes of few channels, less their zero point.
        values: its weights, int8[O, C, kh, kw].
    """
    geometry = contraction.geometry
    rows, columns = geometry.kernel
    taps = cells.reach(geometry.kernel, geometry.strides)
    if geometry.group > 1 or geometry.dilations != (1, 1) or not 2 <= taps <= LARGEST_REACH:
        return False
    wide = cells.SIDE * geometry.strides[0] * values.shape[1] >= x86_cells.LANES
    if not wide or min(contraction.out_shape[1:]) < cells.SIDE + 1 - taps:
        return False
    if rows * -(-columns * values.shape[1] // 2) < x86_cells.FEWEST_WORDS:
        return False
    most = int(np.abs(values.astype(np.int64)).sum(axis=(1, 2, 3)).max()) * LARGEST_BYTE
    largest = int(np.abs(cells.transformed(values, geometry.strides[0])).max())
    fitting: bool = most <= x86_cells.LARGEST_SUM and largest <= x86_cells.LARGEST_TAP
    return fitting
