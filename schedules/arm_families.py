"""ARM (NEON) vector operations, and the kernel families of ARMv8-A.

A NEON register has four 32-bit lanes, too few for the epilogue to pack bits. The vectors of these kernels have 16: LLVM
makes four registers of each, and the four share one broadcast of the activation.

A family is one class: `Words` or `BitWords` with `activation` (what a word of the input becomes), `step` (one word into
an accumulator) and, where accumulators are narrow, `flush`. `schedules/arm_cpu.py` says which target has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .isa import Expr, vector
from .words import BitWords, Words

LANES = 16
"""Channels of a vector: four registers of 32-bit lanes, one of bytes."""

FLUSH_STEPS = 31
"""Byte counters overflow after 31 steps of at most 8."""


@dataclass(frozen=True, kw_only=True)
class Neon:
    """Vector operations of one ARM target."""

    lanes: int = LANES

    @property
    def accumulators(self) -> int:
        """Vectors of 16 lanes that stay in 32 registers beside the operands."""
        return 4

    def movemask(self, condition: Expr) -> Expr:
        """Bits of a condition over 16 lanes: a byte with one bit for each true lane, added up within both halves."""
        positions = T.bitwise_and(T.ramp(T.uint8(0), T.uint8(1), LANES), T.broadcast(T.uint8(7), LANES))
        bits = T.shift_left(T.broadcast(T.uint8(1), LANES), positions)
        held = T.Select(condition, bits, T.broadcast(T.uint8(0), LANES))
        for _ in range(3):
            held = T.call_llvm_pure_intrin("uint8x16", "llvm.aarch64.neon.addp.v16i8", held, held)
        return T.Shuffle([T.reinterpret("uint16x8", held)], [0])


@dataclass(frozen=True, kw_only=True)
class PopcountBytes(BitWords):
    """AND and CNT: byte counters that are flushed every 31 steps."""

    isa: Neon
    accumulator: str = "uint8"
    flush_steps: int = FLUSH_STEPS
    cycles: float = 6.0

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds ``popcount(weight & activation)``."""
        return accumulator + T.popcount(T.reinterpret("uint8x64", weight[0] & activation[0]))

    def flush(self, total: Expr, accumulator: Expr) -> Expr:
        """``total`` plus the four bytes of each lane."""
        halves = T.reinterpret("uint16x32", accumulator)
        eight = T.broadcast(T.uint16(8), 32)
        pairs = (halves & T.broadcast(T.uint16(0xFF), 32)) + T.shift_right(halves, eight)
        words = T.reinterpret("uint32x16", pairs)
        sums = (words & T.broadcast(T.uint32(0xFFFF), 16)) + T.shift_right(words, T.broadcast(T.uint32(16), 16))
        return total + T.reinterpret("int32x16", sums)


@dataclass(frozen=True, kw_only=True)
class MultiplyWide(Words):
    """SMLAL on 16-bit factors: one product per lane and step, exact without dot-product instructions."""

    isa: Neon
    accumulator: str = "int32"
    weight_dtype: str = "int16"
    vectors: int = 4
    cycles: float = 16.0

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """Four channels of one pixel as 16-bit factors, each in every lane."""
        word = T.bind(T.cast(source[T.ramp(index, 1, 4)], "int16x4"))
        return [T.broadcast(T.Shuffle([word], [channel]), LANES) for channel in range(4)]

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds four products per lane."""
        wide = vector("int32", self.isa)
        for factor, weights in zip(activation, weight, strict=True):
            accumulator = accumulator + T.cast(weights, wide) * T.cast(factor, wide)
        return accumulator
