"""Popcount on ARM: AND and CNT on bit planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from .isa import Expr
from .neon import Neon
from .words import BitWords

FLUSH_STEPS = 31
"""Byte counters overflow after 31 steps of at most 8."""


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
