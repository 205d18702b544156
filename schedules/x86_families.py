"""x86-64 vector operations, and the kernel families that AVX2, AVX-512, VNNI and VPOPCNTDQ give.

Facts on instructions are from Intel's Intrinsics Guide and uops.info: VPDPBUSD multiplies unsigned by signed bytes and
adds four products per 32-bit lane; VPMADDUBSW saturates at 16 bits, so it only sums popcounts here; without VPOPCNTDQ a
popcount is two table look-ups (VPSHUFB) per byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from .carry_save import CarrySaveBuilder
from .isa import Expr, Registers, constant, vector
from .words import BitWords

MAJORITY, PARITY = 0xE8, 0x96
"""Truth tables of VPTERNLOG: carry and sum of a full adder."""

FLUSH_STEPS = 31
"""Byte counters overflow after 31 steps of at most 8."""


@dataclass(frozen=True, kw_only=True)
class X86(Registers):
    """Vector operations of one x86 target."""

    lanes: int
    vnni: bool
    vector_popcount: bool
    amx: bool = False
    prefetches: bool = False

    @property
    def accumulators(self) -> int:
        """Accumulators that measurements showed to stay in registers: more spill (32 and 16 vector registers)."""
        return 18 if self.lanes == 16 else 10

    def movemask(self, condition: Expr) -> Expr:
        """Bits of a condition over `lanes` lanes; LLVM turns it into KMOV with AVX-512."""
        if self.lanes == 16:
            ones, zeros = T.broadcast(T.int8(-1), 16), T.broadcast(T.int8(0), 16)
            mask = T.call_llvm_pure_intrin("int32", "llvm.x86.sse2.pmovmskb.128", T.Select(condition, ones, zeros))
            return T.cast(mask, "uint16")
        ones, zeros = T.broadcast(T.int32(-1), 8), T.broadcast(T.int32(0), 8)
        floats = T.reinterpret("float32x8", T.Select(condition, ones, zeros))
        return T.cast(T.call_llvm_pure_intrin("int32", "llvm.x86.avx.movmsk.ps.256", floats), "uint8")

    def permute(self, table: Expr, index: Expr) -> Expr:
        """``table[index % lanes]`` for each lane of a uint32 vector: VPERMPS on a float32 vector."""
        name = "llvm.x86.avx512.permvar.sf.512" if self.lanes == 16 else "llvm.x86.avx2.permps"
        signed = T.reinterpret(vector("int32", self), index)
        return T.call_llvm_pure_intrin(vector("float32", self), name, table, signed)

    def to_bytes(self, value: Expr) -> Expr:
        """An int32 vector of 0 to 255 as uint8.

        On AVX2 by packing instructions: LLVM 22 narrows each step before a plain truncation instead.
        """
        if self.lanes == 16:
            return T.cast(value, "uint8x16")
        halves = [T.Shuffle([value], list(range(start, start + 4))) for start in (0, 4)]
        words = T.call_llvm_pure_intrin("int16x8", "llvm.x86.sse2.packssdw.128", *halves)
        packed = T.call_llvm_pure_intrin("uint8x16", "llvm.x86.sse2.packuswb.128", words, words)
        return T.Shuffle([packed], list(range(8)))

    @property
    def bytes_type(self) -> str:
        """A vector of unsigned bytes."""
        return f"uint8x{self.lanes * 4}"

    def add_bytes(self, total: Expr, counts: Expr, weight: int = 1) -> Expr:
        """``total + weight * (sum of the 4 bytes of each lane)`` for byte counters below 128 times `weight`."""
        bits = self.lanes * 32
        ones = T.reinterpret(f"int8x{self.lanes * 4}", constant(weight * 0x01010101, "int32", self))
        if self.vnni:
            return T.call_llvm_pure_intrin(
                vector("int32", self), f"llvm.x86.avx512.vpdpbusd.{bits}", total, counts, ones
            )
        pairs_name, sums_name = (
            ("llvm.x86.avx512.pmaddubs.w.512", "llvm.x86.avx512.pmaddw.d.512")
            if self.lanes == 16
            else ("llvm.x86.avx2.pmadd.ub.sw", "llvm.x86.avx2.pmadd.wd")
        )
        halves = f"int16x{self.lanes * 2}"
        pairs = T.call_llvm_pure_intrin(halves, pairs_name, counts, ones)
        units = T.broadcast(T.int16(1), self.lanes * 2)
        return total + T.call_llvm_pure_intrin(vector("int32", self), sums_name, pairs, units)


@dataclass(frozen=True, kw_only=True)
class PopcountLanes(BitWords):
    """AND and VPOPCNTD: 32 bits per lane and step, counters in 32-bit lanes."""

    accumulator: str = "uint32"
    cycles: float = 1.5

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """``accumulator + popcount(weight & activation)``."""
        return accumulator + T.popcount(weight[0] & activation[0])


@dataclass(frozen=True, kw_only=True)
class PopcountBytes(BitWords):
    """AND and byte popcounts by table look-up, in byte counters that are flushed every 31 steps (AVX2)."""

    isa: X86
    accumulator: str = "uint8"
    flush_steps: int = FLUSH_STEPS
    cycles: float = 4.0

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds ``popcount(weight & activation)``."""
        return accumulator + T.popcount(T.reinterpret(self.isa.bytes_type, weight[0] & activation[0]))

    def flush(self, total: Expr, accumulator: Expr) -> Expr:
        """Widens byte counters."""
        return self.isa.add_bytes(total, accumulator)


@dataclass(frozen=True, kw_only=True)
class PopcountCarrySave(BitWords):
    """AND, bitwise adders (VPTERNLOG), and a byte popcount for every eighth word: AVX-512 without VPOPCNTDQ.

    3.6 instructions a word against 8 of `PopcountBytes`.
    """

    builder = CarrySaveBuilder
    isa: X86
    accumulator: str = "int32"
    cycles: float = 1.8

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds ``popcount(weight & activation)``."""
        return self.count(accumulator, weight[0] & activation[0], 1)

    def count(self, total: Expr, word: Expr, weight: int) -> Expr:
        """``total + weight * popcount(word)`` per lane."""
        return self.isa.add_bytes(total, T.popcount(T.reinterpret(self.isa.bytes_type, word)), weight)

    def full_adder(self, a: Expr, b: Expr, c: Expr) -> tuple[Expr, Expr]:
        """(carry, sum) of three bits in each position: one VPTERNLOG each."""
        return self._ternary(a, b, c, MAJORITY), self._ternary(a, b, c, PARITY)

    def _ternary(self, a: Expr, b: Expr, c: Expr, table: int) -> Expr:
        signed = [T.reinterpret("int32x16", value) for value in (a, b, c)]
        name = "llvm.x86.avx512.pternlog.d.512"
        result = T.call_llvm_pure_intrin("int32x16", name, *signed, T.int32(table))
        return T.bind(T.reinterpret("uint32x16", result))
