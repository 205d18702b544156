"""The contraction on bit planes through carry-save adders: bits are summed bitwise, and counted once for eight words.

Method: Harley-Seal, as in Mula, Kurz and Lemire, "Faster population counts using AVX2 instructions", 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from .contraction import ContractionBuilder
from .isa import Expr, load, vector, zero, zeros

SEGMENT_WORDS = 40
"""Most words of one unrolled run of adders: more would leave the micro-op cache."""

LEVELS = 3
"""Vectors that the adders of an accumulator hold: bits of weight 1, 2 and 4."""


class CarrySaveBuilder(ContractionBuilder):
    """All words of a tile through adders; what they hold is counted at the end. The family is a `CarrySave`."""

    family: Any

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Counts of a tile over all taps."""
        shape, family = self.shape, self.family
        rows, columns = shape.kernel
        pixel, width = shape.source.pixel, shape.source.padded_width
        count = self.pairs * self.pixels * self.tile.blocks
        totals = zeros(count, vector(family.accumulator, self.isa))
        levels = zeros(LEVELS * count, vector("uint32", self.isa))

        def word(r: Expr, c: Expr, k: Expr) -> tuple[Expr, Expr]:
            offset = (r * shape.dilations[0] * width + c * shape.dilations[1]) * pixel + k * family.word_elements
            return offset, ((block * rows + r) * columns + c) * shape.words + k

        def segment(words: list[tuple[Expr, Expr]]) -> None:
            for start in range(0, len(words), 8):
                self._add_words(words[start : start + 8], bases, levels, totals)

        if rows * columns * shape.words <= SEGMENT_WORDS:
            segment([word(r, c, k) for r in range(rows) for c in range(columns) for k in range(shape.words)])
        elif columns * shape.words <= SEGMENT_WORDS:
            with T.serial(0, rows) as r:
                segment([word(r, c, k) for c in range(columns) for k in range(shape.words)])
        else:
            full = shape.words // 8
            with T.serial(0, rows) as r, T.serial(0, columns) as c:
                if full:
                    with T.serial(0, full) as part:
                        segment([word(r, c, part * 8 + k) for k in range(8)])
                if shape.words % 8:
                    segment([word(r, c, full * 8 + k) for k in range(shape.words % 8)])
        for index in range(count):
            total = totals[index]
            for level in range(LEVELS):
                total = T.bind(family.count(total, levels[LEVELS * index + level], 1 << level))
            T.buffer_store(totals, total, [index])
        return totals

    def _add_words(self, words: Sequence[tuple[Expr, Expr]], bases: Sequence[Expr], levels: Any, totals: Any) -> None:
        """Up to eight words: seven adders leave one vector of weight 8 to count.

        Args:
            words: offset in the input and index among the weights of each.
            bases: element of the input at which each pixel starts.
            levels: what the adders hold.
            totals: counts.
        """
        isa, family, tile = self.isa, self.family, self.tile
        planes = self.shape.weight_planes
        for i in range(planes):
            for n in range(tile.blocks):
                for j in range(self.rule.act_planes):
                    for m, base in enumerate(bases):
                        index = self.index(i, j, m, n)
                        ones, twos, fours = (levels[LEVELS * index + level] for level in range(LEVELS))

                        def bit(position: int, i: int = i, n: int = n, base: Expr = base, j: int = j) -> Expr:
                            if position >= len(words):
                                return zero(vector("uint32", isa))
                            offset, at = words[position]
                            weight = load(self.weights, ((at * planes + i) * tile.blocks + n) * isa.lanes, isa)
                            (bits,) = family.activation(self.source, base + j * self.shape.source.plane + offset)
                            return T.bind(weight & bits)

                        pairs = []
                        for half in range(2):
                            carries = []
                            for first in (4 * half, 4 * half + 2):
                                carry, ones = family.full_adder(ones, bit(first), bit(first + 1))
                                carries.append(carry)
                            carry, twos = family.full_adder(twos, *carries)
                            pairs.append(carry)
                        eights, fours = family.full_adder(fours, *pairs)
                        for level, value in enumerate((ones, twos, fours)):
                            T.buffer_store(levels, value, [LEVELS * index + level])
                        T.buffer_store(totals, family.count(totals[index], eights, 8), [index])
