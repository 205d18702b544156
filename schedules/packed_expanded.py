"""Weight-only layers of more than one output pixel: weights of a tile's channels become floats once, for all pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from .contraction import ContractionBuilder
from .isa import Expr, load, stack_buffer, store
from .packed_signs import flip
from .problem import Problem
from .words import WORD, FloatFma


class Expanded(ContractionBuilder):
    """More than one output pixel: weights of a tile's channels become floats, and the float32 loop nest reads those."""

    windowed = False

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        shape = self.shape
        self.multiply: Any = FloatFma(isa=self.isa, accumulator="float32", weight_dtype="float32", cycles=0.5)
        self.words = -(-shape.words // WORD)
        self.tasks = shape.blocks // self.tile.blocks

    def weight_size(self) -> int:
        """Packed words."""
        shape = self.shape
        return shape.kernel[0] * shape.kernel[1] * self.words * self.rule.signed_planes * shape.blocks * self.isa.lanes

    def basis_rows(self) -> int:
        """A row for each plane, and one for the offset."""
        return self.rule.weight_basis

    def task(self, index: Expr) -> None:
        """One task: expand the weights of a tile's channels, then all rows."""
        shape = self.shape
        floats = shape.kernel[0] * shape.kernel[1] * shape.words * self.tile.blocks * self.isa.lanes
        self.expanded = stack_buffer(floats, "float32")
        self._expand(index)
        with T.serial(0, shape.tile_rows) as row:
            self.row(index, row)

    def taps(self, block: Expr, bases: Sequence[Expr], accumulators: Any, totals: Any) -> None:  # noqa: ARG002
        """The float32 loop nest over expanded weights."""
        packed, family = self.weights, self.family
        self.weights, self.family = self.expanded, self.multiply
        super().taps(T.int32(0), bases, accumulators, totals)
        self.weights, self.family = packed, family

    def _expand(self, block: Expr) -> None:
        shape, isa, planes, blocks = self.shape, self.isa, self.rule.signed_planes, self.tile.blocks
        channels = shape.blocks * isa.lanes
        taps = shape.kernel[0] * shape.kernel[1]
        whole, rest = divmod(shape.words, WORD)

        def basis(row: int, n: int) -> Expr:
            return T.bind(load(self.basis, row * channels + (block * blocks + n) * isa.lanes, isa))

        rows = [[basis(row, n) for n in range(blocks)] for row in range(self.rule.weight_basis)]

        def word(tap: Expr, k: Expr, count: int) -> None:
            first = ((block * taps + tap) * self.words + k) * planes * blocks
            words = [T.bind(load(self.weights, (first + p) * isa.lanes, isa)) for p in range(planes * blocks)]
            with T.serial(0, count) as position:
                for n in range(blocks):
                    terms = [flip(rows[i][n], words[i * blocks + n], position, isa) for i in range(planes)]
                    terms += [row[n] for row in rows[planes:]]
                    value = terms[0]
                    for term in terms[1:]:
                        value = value + term
                    at = ((tap * shape.words + k * WORD + position) * blocks + n) * isa.lanes
                    store(self.expanded, value, at, isa)

        with T.serial(0, taps) as tap:
            if whole:
                with T.serial(0, whole) as k:
                    word(tap, k, WORD)
            if rest:
                word(tap, T.int32(whole), rest)
