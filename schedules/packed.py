"""Weight-only layers: float32 activations times weights that stay packed in memory, one bit per plane.

    y = sum_i v_i * sum_k (+-x_k) + w0 * sum_k x_k      in float32; the order of summation is free

A layer with one output pixel uses each weight once, so bytes decide: sums with signs come straight from the bits
(`schedules.packed_signs`). With more pixels the weights of a tile's channels are expanded to floats once, in the
second-level cache, and the float32 loop nest runs over all pixels (`schedules.packed_expanded`), or over transformed
tiles of them, which takes fewer multiplications (`schedules.packed_winograd`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy.typing as npt

from .contraction import tile_weights
from .isa import Expr
from .packed_expanded import Expanded
from .packed_signs import SignedSums, flip
from .packed_winograd import TransformedTiles, fits, transformed_size
from .problem import ConvShape, Problem, SumRule, Tile
from .words import WORD, Words


@dataclass(frozen=True, kw_only=True)
class Packed(Words):
    """Weights as bit planes.

    Args:
        group: activations that make one look-up; 0 for none: signs are flipped.
        tiles: whether 3x3 convolutions run on transformed tiles.
    """

    builder = Expanded
    accumulator: str = "float32"
    weight_dtype: str = "uint32"
    word_elements: int = 1
    cycles: float = 0.5
    group: int = 0
    tiles: bool = False

    def tiled(self, shape: ConvShape) -> bool:
        """Whether a nest runs on transformed tiles."""
        return self.tiles and fits(shape)

    def signed(self, value: Expr, words: Expr, position: Expr) -> Expr:
        """`value` with the signs that bit `position` of the words stands for."""
        return flip(value, words, position, self.isa)

    def nest(self, shape: ConvShape) -> ConvShape:
        """With more than one output pixel the loop nest runs over floats: one word for each input channel."""
        return shape if is_vector(shape) else replace(shape, words=shape.source.channels, weight_planes=1)

    def workspace(self, shape: ConvShape, rule: SumRule) -> int:  # noqa: ARG002
        """int32 elements of the tables of signed sums, or of the transformed input."""
        if self.tiled(shape):
            return transformed_size(shape)
        if not self.group or not is_vector(shape):
            return 0
        return shape.kernel[0] * shape.kernel[1] * shape.words * self.look_ups(WORD) * self.isa.lanes

    @property
    def word_cycles(self) -> float:
        """Cycles of a packed word: three instructions for a look-up, four for a flipped sign, two in a cycle."""
        return 1.5 * self.look_ups(WORD) if self.group else 2.0 * WORD

    def look_ups(self, channels: int) -> int:
        """Look-ups for a word of `channels` activations."""
        return -(-channels // self.group)

    def contraction(self, problem: Problem) -> Any:
        """The PrimFunc, with a weight basis float32[rows, channels]."""
        shape = problem.shape
        builder = SignedSums if is_vector(shape) else TransformedTiles if self.tiled(shape) else Expanded
        return builder(self, problem).build()

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Words [O, P, kh, kw, W, 1] by tiles; a set bit is +1 in a look-up, and -1 where signs are flipped."""
        looked_up = self.group and is_vector(shape)
        return (tile_weights(words if looked_up else ~words, shape.blocks, tile.blocks, self.isa.lanes),)


def is_vector(shape: ConvShape) -> bool:
    """Whether a layer has one output pixel, so that it uses each weight once."""
    return (shape.out_height, shape.out_width) == (1, 1)
