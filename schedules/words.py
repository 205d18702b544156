"""Kernel families that every instruction set has, and what the others have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from .contraction import ContractionBuilder, tile_weights
from .family import TileProof
from .isa import Expr, Isa, broadcast
from .problem import ConvShape, Problem, SumRule, Tile, workspace_size

WORD = 32
"""Weights of one plane in a packing word of bits."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """What families have in common: one weight vector per word of four bytes, counters that never overflow.

    `cycles` is what one step takes on the arithmetic ports, `latency` the cycles from one step of an accumulator to
    the next, `instructions` those of a step and `operand_instructions` those of an activation operand.

    Attributes:
        builder: of the PrimFunc; one with weights in an order of its own comes with `operands`.
    """

    builder: ClassVar[type[Any]] = ContractionBuilder
    isa: Isa
    accumulator: str
    weight_dtype: str
    cycles: float
    vectors: int = 1
    flush_steps: int = 0
    word_elements: int = 4
    latency: float = 5.0
    instructions: int = 2
    operand_instructions: int = 1
    total: str = "int32"
    table_size: int = 0

    @property
    def channels(self) -> int:
        """One output channel for each lane."""
        return self.isa.lanes

    def flush(self, total: Expr, accumulator: Expr) -> Expr:
        """`total` plus the accumulator, for families that do not widen."""
        return total + accumulator

    def contraction(self, problem: Problem) -> Any:
        """The PrimFunc of a contraction."""
        return self.builder(self, problem).build()

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Words [O, P, kh, kw, W, vectors] in the order in which `contraction` reads them, flat; the table if any."""
        blocks = -(-shape.blocks * self.isa.lanes // self.channels)
        packed = tile_weights(words, blocks, tile.blocks, self.channels)
        return (packed, self.table()) if self.table_size else (packed,)

    def with_run(self, run: Callable[[], int]) -> Words:  # noqa: ARG002
        """The family for integers of which ``run()`` words can be summed in 16 bits; most need no such proof."""
        return self

    def with_tiles(self, proof: TileProof) -> Words | None:  # noqa: ARG002
        """The family for 3x3 taps on transformed tiles of codes; None where there is none, or its proof fails."""
        return None

    def for_weights(self, integers: npt.NDArray[np.int64]) -> Words:  # noqa: ARG002
        """The family for weights that are their channels' `integers` (int64[O, planes]), each added or subtracted."""
        return self

    def for_codes(self, planes: int, integers: tuple[int, ...], ones: int) -> Words:  # noqa: ARG002
        """The family for codes of `planes` planes; most do not care.

        Args:
            planes: of the codes.
            integers: n_j of the planes where all bases are integers; empty otherwise.
            ones: the most ones that a plane of an output channel's weights has.
        """
        return self

    def proven(self, words: npt.NDArray[Any], shape: ConvShape) -> Words:  # noqa: ARG002
        """The family with what the values of the weights prove; most need nothing.

        Args:
            words: [O, P, kh, kw, W, vectors].
            shape: loop nest.
        """
        return self

    @property
    def combines_codes(self) -> bool:
        """Whether its sums are those of integer codes, activation planes combined."""
        return False

    def most_blocks(self, shape: ConvShape) -> int:
        """Most vectors of channels that a tile can have."""
        return shape.blocks

    def fewer(self, shape: ConvShape, rule: SumRule, tile: Tile) -> tuple[Tile, int] | None:  # noqa: ARG002
        """Another tile for the same operands, and the most samples of a launch that it is for; None on CPUs."""
        return None

    def nest(self, shape: ConvShape) -> ConvShape:
        """The loop nest for the words that the layer is packed in."""
        return shape

    def workspace(self, shape: ConvShape, rule: SumRule) -> int:
        """int32 elements of the workspace."""
        return workspace_size(shape, rule)

    def surplus(self, words: npt.NDArray[Any], shape: ConvShape) -> npt.NDArray[np.int64]:  # noqa: ARG002
        """What the sums of each channel hold beyond the true ones, whatever the input: int64[O]."""
        return np.zeros(len(words), np.int64)

    def table(self) -> npt.NDArray[np.uint8]:
        """The constant table of a family with `table_size`; most have none."""
        return np.empty(0, np.uint8)


@dataclass(frozen=True, kw_only=True)
class BitWords(Words):
    """Families on bit planes: a word is 32 bits."""

    weight_dtype: str = "uint32"

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """32 bits of one plane of one pixel, in every lane."""
        return [broadcast(T.reinterpret("uint32", source[T.ramp(index, 1, 4)]), self.isa)]


@dataclass(frozen=True, kw_only=True)
class FloatFma(Words):
    """One float32 multiply-add per lane and step (contracted to FMA; the order of summation is free)."""

    accumulator: str = "float32"
    weight_dtype: str = "float32"
    word_elements: int = 1
    cycles: float = 0.5

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """One channel of one pixel, in every lane."""
        return [broadcast(source[index], self.isa)]

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """``accumulator + activation * weight``."""
        return accumulator + activation[0] * weight[0]
