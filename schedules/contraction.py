"""The contraction template: a direct convolution with output channels in vector lanes.

One loop nest serves every family. A *word* is what a lane multiplies per step (32 bits of a plane, 4 bytes or 1
float); a tile keeps ``pixels x blocks x plane pairs`` accumulators in registers, weights stream from memory once per
tile and activations are broadcast. A linear layer is a 1x1 convolution on a 1x1 image. Grouped convolutions arrive as
dense ones; a tile reads the window of input words in which its channels have anything but structural zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from .isa import Expr, element_bits, zero, zeros
from .row_tiles import RowTileBuilder


def tile_weights(words: npt.NDArray[Any], blocks: int, tile_blocks: int, lanes: int) -> npt.NDArray[Any]:
    """Orders words as the contraction template reads them.

    Args:
        words: [O, P, kh, kw, W, vectors].
        blocks: vectors of output channels, padding included.
        tile_blocks: vectors per tile.
        lanes: channels per vector.

    Returns:
        [blocks / tile_blocks, kh, kw, W, P, tile_blocks, vectors, lanes], flat.
    """
    outputs = blocks * lanes
    padded = np.pad(words, [(0, outputs - words.shape[0])] + [(0, 0)] * 5)
    split = padded.reshape(blocks // tile_blocks, tile_blocks, lanes, *words.shape[1:])
    return np.ascontiguousarray(split.transpose(0, 4, 5, 6, 3, 1, 7, 2)).ravel()


class ContractionBuilder(RowTileBuilder):
    """Words are broadcast, one step for each pair of planes, pixel and vector of channels."""

    windowed = True

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums of a tile over all taps."""
        family, isa = self.family, self.isa
        count = self.pairs * self.pixels * self.tile.blocks
        kind = f"{family.accumulator}x{isa.lanes * 32 // element_bits(family.accumulator)}"
        accumulators = zeros(count, kind)
        totals = zeros(count, f"{family.total}x{family.channels}") if family.flush_steps else accumulators
        self.taps(block, bases, accumulators, totals)
        return totals

    def taps(self, block: Expr, bases: Sequence[Expr], accumulators: Any, totals: Any) -> None:
        """Words of every tap into accumulators, flushed to totals where those are too narrow."""
        shape = self.shape
        rows, columns = shape.kernel
        limit = self.family.flush_steps
        pixel, width = shape.source.pixel, shape.source.padded_width
        with T.serial(0, rows) as r:
            with T.serial(0, columns) as c:
                offset = T.bind((r * shape.dilations[0] * width + c * shape.dilations[1]) * pixel)
                first = T.bind(((block * rows + r) * columns + c) * shape.words)
                chunk = shape.words
                if limit:
                    chunk = max(size for size in range(1, min(limit, shape.words) + 1) if shape.words % size == 0)
                if chunk == shape.words:
                    self._words(first, [base + offset for base in bases], chunk, accumulators)
                    if limit and limit < columns * shape.words:
                        self._flush(accumulators, totals)
                else:
                    with T.serial(0, shape.words // chunk) as part:
                        skip = part * chunk
                        bytes_skipped = skip * self.family.word_elements
                        self._words(
                            first + skip, [base + offset + bytes_skipped for base in bases], chunk, accumulators
                        )
                        self._flush(accumulators, totals)
            if limit and limit >= columns * shape.words:
                self._flush(accumulators, totals)

    def _flush(self, accumulators: Any, totals: Any) -> None:
        for index in range(self.pairs * self.pixels * self.tile.blocks):
            T.buffer_store(totals, self.family.flush(totals[index], accumulators[index]), [index])
            T.buffer_store(accumulators, zero(str(accumulators.dtype)), [index])

    def _words(self, first: Expr, bases: Sequence[Expr], count: int, accumulators: Any) -> None:
        """`count` words of one tap: one weight vector per (plane, block), one broadcast per (pixel, plane)."""
        shape, family, tile = self.shape, self.family, self.tile
        planes, vectors = shape.weight_planes, family.vectors

        def body(k: Expr) -> None:
            weights = []
            for i in range(planes):
                for n in range(tile.blocks):
                    at = (((first + k) * planes + i) * tile.blocks + n) * vectors
                    lanes = family.channels
                    weights.append(
                        [T.bind(self.weights[T.ramp((at + part) * lanes, 1, lanes)]) for part in range(vectors)]
                    )
            for j in range(self.rule.act_planes):
                for m, base in enumerate(bases):
                    at = base + j * shape.source.plane + k * family.word_elements
                    word = [T.bind(part) for part in self._activation(at)]
                    for i in range(planes):
                        for n in range(tile.blocks):
                            index = self.index(i, j, m, n)
                            result = family.step(accumulators[index], word, weights[i * tile.blocks + n])
                            T.buffer_store(accumulators, result, [index])

        together = gcd(count, tile.unroll)
        if count == together:
            for k in range(count):
                body(T.int32(k))
        else:
            with T.serial(0, count // together) as turn:
                for k in range(together):
                    body(turn * together + k if together > 1 else turn)

    def _activation(self, index: Expr) -> list[Expr]:
        """Operands of the word at element `index` of the input."""
        family: Any = self.family
        if family.table_size:
            looked_up: list[Expr] = family.look_up(self.table, self.source, index)
            return looked_up
        return self.family.activation(self.source, index)
