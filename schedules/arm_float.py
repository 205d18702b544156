"""float32 on ARM: FMLA by a lane, so that one load brings four channels of a pixel and none is broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .isa import Expr, broadcast, load, vector, zeros
from .row_tiles import RowTileBuilder
from .words import FloatFma

CHANNELS = 4
"""Channels of a register."""


class FloatBuilder(RowTileBuilder):
    """A float32 contraction, four input channels at a time."""

    windowed = True

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums of a tile over all taps."""
        shape, isa, blocks = self.shape, self.isa, self.tile.blocks
        rows, columns = shape.kernel
        pixel, width = shape.source.pixel, shape.source.padded_width
        sums = zeros(len(bases) * blocks, vector("float32", isa))

        def run(first: Expr, offset: Expr, count: int) -> None:
            index = T.ramp(offset, 1, count) if count > 1 else offset
            held = [T.bind(self.source[base + index]) for base in bases]
            for k in range(count):
                lanes = [broadcast(T.Shuffle([part], [k]) if count > 1 else part, isa) for part in held]
                for n in range(blocks):
                    weight = T.bind(load(self.weights, ((first + k) * blocks + n) * isa.lanes, isa))
                    for m, lane in enumerate(lanes):
                        at = m * blocks + n
                        T.buffer_store(sums, sums[at] + lane * weight, [at])

        with T.serial(0, rows) as r, T.serial(0, columns) as c:
            offset = T.bind((r * shape.dilations[0] * width + c * shape.dilations[1]) * pixel)
            first = T.bind(((block * rows + r) * columns + c) * shape.words)
            if shape.words >= CHANNELS:
                with T.serial(0, shape.words // CHANNELS) as k:
                    run(first + k * CHANNELS, offset + k * CHANNELS, CHANNELS)
            for word in range(shape.words - shape.words % CHANNELS, shape.words):
                run(first + word, offset + word, 1)
        return sums


@dataclass(frozen=True, kw_only=True)
class FloatLanes(FloatFma):
    """One float32 multiply-add per lane and step; the order of summation is free."""

    builder = FloatBuilder
