"""Table look-ups (``lut``): VPSHUFB picks partial sums for 32 output channels at a time, with AVX-512 for 64.

Four codes of a plane are a nibble, and so are four weights of a plane. For each byte of codes a table holds the sums of
its two nibbles with all 16 nibbles of weights: popcounts, 0 to 4. Weights are the indices, with output channels in the
byte lanes: one VPSHUFB and one VPADDB do 128 multiply-accumulates of a plane pair, or 256. Method: T-MAC (Wei et al.,
2024), with weights and codes in each other's place, so that one constant table serves all inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from .isa import Expr
from .words import Words
from .x86_families import X86
from .x86_lut_pairs import pair_lookup
from .x86_lut_vectors import ROW_BYTES, byte_lanes, shuffle, spread

CODE_BYTES = 2 * ROW_BYTES
"""Of a table, for each byte of codes: a row for its low nibble, then one for its high nibble."""


@dataclass(frozen=True, kw_only=True)
class Lookup(Words):
    """Popcounts of 8 channels by two look-ups, in byte counters that are flushed every 31 steps."""

    isa: X86
    accumulator: str = "uint8"
    weight_dtype: str = "uint8"
    vectors: int = 2
    flush_steps: int = 31
    word_elements: int = 1
    cycles: float = 1.25
    latency: float = 2.0
    instructions: int = 4
    operand_instructions: int = 4
    total: str = "uint16"
    table_size: int = 256 * CODE_BYTES

    @property
    def channels(self) -> int:
        """One output channel for each byte."""
        return byte_lanes(self.isa)

    def for_codes(self, planes: int, integers: tuple[int, ...], ones: int) -> Words:
        """Look-ups of two planes at once, or of two pixels."""
        return pair_lookup(self.isa, planes, integers, ones)

    def table(self) -> npt.NDArray[np.uint8]:
        """uint8[256, 2, 16], flat: popcounts of (low, high) nibble of a byte and each nibble of weights."""
        byte = np.arange(256, dtype=np.uint8)
        nibbles = np.stack([byte & 15, byte >> 4], axis=1)
        counts: npt.NDArray[np.uint8] = np.bitwise_count(nibbles[:, :, None] & byte[:16])
        return counts.ravel()

    def look_up(self, table: Any, source: Any, index: Expr) -> list[Expr]:
        """Two rows of 16 sums."""
        row = T.bind(T.cast(source[index], "int32") * CODE_BYTES)
        return [spread(table[T.ramp(row + start, 1, ROW_BYTES)], self.isa) for start in (0, ROW_BYTES)]

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds the sums of both nibbles."""
        for sums, nibbles in zip(activation, weight, strict=True):
            accumulator = accumulator + shuffle(sums, nibbles, self.isa)
        return accumulator

    def flush(self, total: Expr, accumulator: Expr) -> Expr:
        """Widens the counters."""
        return total + T.cast(accumulator, f"uint16x{self.channels}")
