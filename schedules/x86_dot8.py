"""8-bit dot products on x86: VPDPBUSD, or without VNNI 16-bit multiplies, or byte multiplies where 16-bit sums hold.

VPMADDUBSW does 32 products (256 bits) but saturates at 16 bits; VPMADDWD does 16 and is exact. Both issue twice per
cycle. `lqcompile.lowering.parameters.sixteen_bit_run` proves from the weights of a layer how many VPMADDUBSW can be
added up without saturation; `with_run` takes the family for that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm.script.ir_builder import tirx as T

from .family import TileProof
from .isa import Expr, broadcast
from .problem import ConvShape
from .words import Words
from .x86_bytes import DotBytes, DotBytesWide, FourProducts, multiply_words, words_type
from .x86_cells import DotCells
from .x86_families import X86
from .x86_winograd import FEWEST_CHANNELS_VNNI, FEWEST_SUMMED, WinogradBytes, WinogradVnni


@dataclass(frozen=True, kw_only=True)
class DotVnni(FourProducts):
    """VPDPBUSD: exact for all bytes."""

    def with_tiles(self, proof: TileProof) -> Words | None:
        """The same on transformed tiles."""
        if proof.channels < FEWEST_CHANNELS_VNNI or not proof.fits_bytes():
            return None
        return WinogradVnni(isa=self.isa, largest=proof.largest)


@dataclass(frozen=True, kw_only=True)
class DotPairs(Words):
    """Two VPMADDWD on 16-bit pairs (even and odd channels of a word): exact for all bytes."""

    isa: X86
    accumulator: str = "int32"
    weight_dtype: str = "int32"
    vectors: int = 2
    cycles: float = 1.25
    latency: float = 2.0
    instructions: int = 4
    operand_instructions: int = 3

    def with_run(self, run: Callable[[], int]) -> Words:
        """Byte multiplies, summed ``run()`` at a time in 16 bits; 0: they would saturate."""
        steps = run()
        if steps == 0:
            return self
        return DotBytes(isa=self.isa, flush_steps=steps) if steps > 1 else DotBytesWide(isa=self.isa)

    def with_tiles(self, proof: TileProof) -> Words | None:
        """Byte multiplies of transformed tiles."""
        steps = proof.sixteen_bit_run()
        return WinogradBytes(isa=self.isa, flush_steps=steps, largest=proof.largest) if steps >= FEWEST_SUMMED else None

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """Channels 0, 2 and channels 1, 3 of one pixel as 16-bit pairs, in every lane."""
        lanes = self.isa.lanes * 2
        word = broadcast(T.reinterpret("uint32", source[T.ramp(index, 1, 4)]), self.isa)
        halves = T.bind(T.reinterpret(f"uint16x{lanes}", word))
        even = T.bitwise_and(halves, T.broadcast(T.uint16(0xFF), lanes))
        odd = T.shift_right(halves, T.broadcast(T.uint16(8), lanes))
        return [T.reinterpret(f"int16x{lanes}", half) for half in (even, odd)]

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds four products per lane."""
        for half, factor in zip(activation, weight, strict=True):
            accumulator = accumulator + multiply_words(half, T.reinterpret(words_type(self.isa), factor), self.isa)
        return accumulator


@dataclass(frozen=True, kw_only=True)
class DotRows(Words):
    """VPMADDWD on the 16-bit codes of a row of taps, two at a time: pixels of few channels waste no products.

    Pixels lie side by side without padding, so a row of taps is one run of words; the last may end in the next pixel,
    where its weight is 0. Codes are stored less their zero point.
    """

    isa: X86
    accumulator: str = "int32"
    weight_dtype: str = "int32"
    word_elements: int = 2
    cycles: float = 0.5

    def with_cells(self, serve: Callable[[], bool]) -> Words:
        """The family on tiles of cells, where `serve` says so."""
        return DotCells(isa=self.isa) if serve() else self

    def nest(self, shape: ConvShape) -> ConvShape:
        """One column of taps, as long as the row."""
        return replace(shape, kernel=(shape.kernel[0], 1), dilations=(shape.dilations[0], 1))

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """Two codes, in every lane."""
        pair = T.reinterpret("int32", source[T.ramp(index, 1, 2)])
        return [T.reinterpret(words_type(self.isa), broadcast(pair, self.isa))]

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds two products per lane."""
        return accumulator + multiply_words(activation[0], T.reinterpret(words_type(self.isa), weight[0]), self.isa)
