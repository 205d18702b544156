"""Depthwise convolution: output channel c reads input channel c alone, so vectors of channels lie on both sides.

A tile loads a vector of input channels for each tap and pixel and multiplies it by the tap's weights, lane by lane.
Bytes are widened to 32 bits first; products of 8-bit factors are exact there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .isa import Expr, Isa, load, vector, zeros
from .row_tiles import RowTileBuilder
from .words import Words


class DepthwiseBuilder(RowTileBuilder):
    """Vectors of both factors, a weight for each tap and channel."""

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums of a tile over all taps."""
        shape, isa, blocks = self.shape, self.isa, self.tile.blocks
        kind = vector(self.family.accumulator, isa)
        sums = zeros(len(bases) * blocks, kind)
        # Vectors beyond the stored channels have weights of zero: they may read any.
        last = shape.source.padded_channels - isa.lanes
        channels = [T.bind(T.min((block * blocks + n) * isa.lanes, last)) for n in range(blocks)]
        with T.serial(0, shape.kernel[0]) as r, T.serial(0, shape.kernel[1]) as c:
            row, column = r * shape.dilations[0], c * shape.dilations[1]
            offset = T.bind((row * shape.source.padded_width + column) * shape.source.pixel)
            first = ((block * shape.kernel[0] + r) * shape.kernel[1] + c) * blocks
            for n, channel in enumerate(channels):
                weight = T.bind(T.cast(load(self.weights, (first + n) * isa.lanes, isa), kind))
                for m, base in enumerate(bases):
                    value = T.cast(load(self.source, base + offset + channel, isa), kind)
                    index = m * blocks + n
                    T.buffer_store(sums, sums[index] + value * weight, [index])
        return sums


def depthwise(isa: Isa, accumulator: str, weight_dtype: str) -> Depthwise:
    """The family of depthwise convolutions."""
    return Depthwise(isa=isa, accumulator=accumulator, weight_dtype=weight_dtype)


@dataclass(frozen=True, kw_only=True)
class Depthwise(Words):
    """Products of channels lane by lane: of float32, or of bytes by int8 weights into int32."""

    builder = DepthwiseBuilder
    cycles: float = 1.0
