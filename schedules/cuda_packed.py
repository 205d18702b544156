"""Weight-only layers on a GPU: float32 activations, and weights that stay bit planes.

A bit of a weight is the sign of an activation: a plane sums ``b_k * a_k`` in float32 (in any order), and the sums of
the planes are weighted at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .cuda_contraction import Spot, WarpContraction
from .cuda_device import device_call
from .cuda_warp import LANES, locals_of
from .cuda_words import WarpWords
from .isa import Expr, load
from .words import WORD


class PackedContraction(WarpContraction):
    """A warp reads a word of each plane for 32 channels, then the 32 activations that its bits belong to."""

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums of each plane, and behind them the plain sums of activations where the layer has an offset."""
        rows = len(bases) * self.tile.blocks
        held = locals_of((self.rule.signed_planes + self.has_offset) * rows, "float32", 0)
        whole, rest = divmod(self.shape.source.channels, WORD)
        with T.serial(0, self.shape.kernel[0]) as r, T.serial(0, self.shape.kernel[1]) as c:
            offset = T.bind(self.tap(r, c))
            first = T.bind(((block * self.shape.kernel[0] + r) * self.shape.kernel[1] + c) * self.shape.words)
            if whole:
                with T.serial(0, whole) as k:
                    self.word(held, [base + offset + k * WORD for base in bases], first + k, WORD)
            if rest:
                self.word(held, [base + offset + whole * WORD for base in bases], first + whole, rest)
        return held

    @property
    def has_offset(self) -> bool:
        """Whether weights have an offset, whose row of the basis comes last."""
        return self.rule.weight_basis > self.rule.signed_planes

    def word(self, held: Any, places: Sequence[Expr], at: Expr, count: int) -> None:
        """Adds `count` activations from each place on, with the signs of the words number `at`."""
        planes, blocks = self.rule.signed_planes, self.tile.blocks
        words = [
            T.bind(load(self.weights, (at * planes * blocks + index) * LANES, self.isa))
            for index in range(planes * blocks)
        ]
        with T.serial(0, count) as k:
            for m, place in enumerate(places):
                value = T.bind(self.source[place + k])
                for n in range(blocks):
                    for i in range(planes):
                        bit = T.bitwise_and(T.shift_right(words[i * blocks + n], T.cast(k, "uint32")), T.uint32(1))
                        signed = T.Select(bit == T.uint32(1), value, -value)
                        self.add(held, self.index(i, 0, m, n), signed)
                    if self.has_offset:
                        self.add(held, self.index(planes, 0, m, n), value)

    def add(self, held: Any, place: int, value: Expr) -> None:
        """Adds to one sum."""
        T.buffer_store(held, held[place] + value, [place])

    def sum(self, sums: Any, counts: Any, i: int, j: int, m: int, n: int) -> Expr:
        """The weighted sum of all planes."""
        del counts, i
        total: Expr = T.float32(0.0)
        channel = (self.block * self.tile.blocks + n) * LANES
        for row in range(self.rule.weight_basis):
            factor = load(self.basis, row * self.channels + channel, self.isa)
            total = device_call("__fmaf_rn", factor, sums[self.index(row, j, m, n)], total, dtype="float32")
        return total

    def body(self, block: Expr, pixels: Sequence[Sequence[Spot]]) -> None:
        """As of any contraction; sums need the block for their basis."""
        self.block = block
        super().body(block, pixels)


@dataclass(frozen=True, kw_only=True)
class Packed(WarpWords):
    """Signs of float32 activations, a word of 32 at a time."""

    builder = PackedContraction
    accumulator: str = "float32"
    weight_dtype: str = "uint32"
    word_elements: int = WORD
    cycles: float = 64.0
