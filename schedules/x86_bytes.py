"""Byte products on x86: VPDPBUSD, or VPMADDUBSW, whose sums of two saturate at 16 bits, and what widens them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .isa import Expr, broadcast, vector
from .words import Words
from .x86_families import X86


@dataclass(frozen=True, kw_only=True)
class _Bytes(Words):
    """Unsigned by signed bytes: four channels of a pixel."""

    isa: X86
    weight_dtype: str = "int32"

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """Four channels of one pixel, in every lane."""
        word = T.reinterpret("int32", source[T.ramp(index, 1, 4)])
        return [T.reinterpret(self.isa.bytes_type, broadcast(word, self.isa))]


@dataclass(frozen=True, kw_only=True)
class FourProducts(_Bytes):
    """VPDPBUSD: four products per lane and step, added in 32 bits."""

    accumulator: str = "int32"
    cycles: float = 0.5

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds four products per lane."""
        signed = T.reinterpret(f"int8x{self.isa.lanes * 4}", weight[0])
        name = f"llvm.x86.avx512.vpdpbusd.{self.isa.lanes * 32}"
        return T.call_llvm_pure_intrin(vector("int32", self.isa), name, accumulator, activation[0], signed)


@dataclass(frozen=True, kw_only=True)
class _Pairs(_Bytes):
    """VPMADDUBSW."""

    def products(self, activation: Expr, weight: Expr) -> Expr:
        """Sums of two neighbouring products, 16 bits each."""
        name = "llvm.x86.avx512.pmaddubs.w.512" if self.isa.lanes == 16 else "llvm.x86.avx2.pmadd.ub.sw"
        signed = T.reinterpret(f"int8x{self.isa.lanes * 4}", weight)
        return T.call_llvm_pure_intrin(words_type(self.isa), name, activation, signed)

    def widened(self, sums: Expr, weight: int | Expr = 1) -> Expr:
        """Sums of two neighbouring 16-bit sums, times a 16-bit number."""
        return multiply_words(sums, T.broadcast(T.cast(weight, "int16"), self.isa.lanes * 2), self.isa)


@dataclass(frozen=True, kw_only=True)
class DotBytes(_Pairs):
    """VPMADDUBSW and VPADDW, widened every `flush_steps` words."""

    accumulator: str = "int16"
    cycles: float = 0.64
    latency: float = 1.0

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds four products per lane, in two 16-bit sums."""
        return accumulator + self.products(activation[0], weight[0])

    def flush(self, total: Expr, accumulator: Expr) -> Expr:
        """Adds both 16-bit sums of a lane."""
        return total + self.widened(accumulator)


@dataclass(frozen=True, kw_only=True)
class DotBytesWide(_Pairs):
    """VPMADDUBSW, widened at once."""

    accumulator: str = "int32"
    cycles: float = 1.0
    latency: float = 1.0
    instructions: int = 3

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds four products per lane."""
        return accumulator + self.widened(self.products(activation[0], weight[0]))


def multiply_words(left: Expr, right: Expr, isa: X86) -> Expr:
    """Sums of two neighbouring products of 16-bit numbers (VPMADDWD), 32 bits each."""
    name = "llvm.x86.avx512.pmaddw.d.512" if isa.lanes == 16 else "llvm.x86.avx2.pmadd.wd"
    return T.call_llvm_pure_intrin(vector("int32", isa), name, left, right)


def add_word_products(total: Expr, left: Expr, right: Expr, isa: X86) -> Expr:
    """`total` plus sums of two neighbouring products of 16-bit numbers: VPDPWSSD, or VPMADDWD and VPADDD."""
    if not isa.vnni:
        return total + multiply_words(left, right, isa)
    name = f"llvm.x86.avx512.vpdpwssd.{isa.lanes * 32}"
    return T.call_llvm_pure_intrin(vector("int32", isa), name, total, left, right)


def words_type(isa: X86) -> str:
    """A vector of signed 16-bit numbers."""
    return f"int16x{isa.lanes * 2}"
