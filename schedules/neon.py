"""NEON vector operations as TensorIR expressions.

A NEON register has four 32-bit lanes, too few for the epilogue to pack bits. The vectors of these kernels have 16: LLVM
makes four registers of each, and the four share one broadcast of the activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm.script.ir_builder import tirx as T

from .isa import Expr, Registers

LANES = 16
"""Channels of a vector: four registers of 32-bit lanes, one of bytes."""

REGISTER_BITS = 128
"""Width of a register."""


@dataclass(frozen=True, kw_only=True)
class Neon(Registers):
    """Vector operations of one ARM target.

    Args:
        dot_product: SDOT and UDOT are there (FEAT_DotProd).
        matrix: SMMLA, UMMLA, USMMLA and USDOT are there (FEAT_I8MM).
        in_order: the core runs instructions in order, such as the Cortex-A53.

    Attributes:
        pair_sums: what adds up neighbouring elements, by their dtype (UADDLP; UADALP where that is added to).
    """

    pair_sums: ClassVar[dict[str, str]] = {
        "uint8": "llvm.aarch64.neon.uaddlp.v8i16.v16i8",
        "uint16": "llvm.aarch64.neon.uaddlp.v4i32.v8i16",
    }
    dot_product: bool = False
    matrix: bool = False
    in_order: bool = False
    lanes: int = LANES

    @property
    def accumulators(self) -> int:
        """Vectors of 16 lanes that stay in 32 registers beside the operands."""
        return 4

    def movemask(self, condition: Expr) -> Expr:
        """Bits of a condition over 16 lanes: each half of `lane_bits` added up to a byte."""
        held = lane_bits(condition)
        for _ in range(3):
            held = T.call_llvm_pure_intrin("uint8x16", "llvm.aarch64.neon.addp.v16i8", held, held)
        return T.Shuffle([T.reinterpret("uint16x8", held)], [0])

    def add_pairs(self, value: Expr, dtype: str) -> Expr:
        """Sums of neighbouring unsigned elements in elements of twice the width (`pair_sums`).

        Args:
            value: uint8x64 or uint16x32.
            dtype: of its elements.
        """
        wide = {"uint8": "uint16", "uint16": "uint32"}[dtype]
        kind = f"{wide}x{element_count(wide)}"
        parts = [T.call_llvm_pure_intrin(kind, self.pair_sums[dtype], part) for part in split(value, dtype)]
        return join(parts, wide)

    def add_byte_pairs(self, total: Expr, value: Expr) -> Expr:
        """``total + sums of two neighbouring bytes``, uint16x32 (UADALP)."""
        return total + self.add_pairs(value, "uint8")

    def add_bytes(self, total: Expr, value: Expr) -> Expr:
        """``total + value`` of bytes, uint8x64, for sums below 256.

        UQADD takes as long as ADD, and LLVM does not reorder it: sums that it regroups it then spills.
        """
        name = "llvm.aarch64.neon.uqadd.v16i8"
        sums = [
            T.call_llvm_pure_intrin("uint8x16", name, held, part)
            for held, part in zip(split(total, "uint8"), split(value, "uint8"), strict=True)
        ]
        return join(sums, "uint8")

    def add_quads(self, total: Expr, value: Expr) -> Expr:
        """``total + sums of four neighbouring bytes``, uint32 (UDOT; needs `dot_product`)."""
        ones = T.broadcast(T.uint8(1), element_count("uint8"))
        name = "llvm.aarch64.neon.udot.v4i32.v16i8"
        sums = [
            T.call_llvm_pure_intrin("uint32x4", name, held, part, ones)
            for held, part in zip(split(total, "uint32"), split(value, "uint8"), strict=True)
        ]
        return join(sums, "uint32")


def lane_bits(condition: Expr) -> Expr:
    """uint8x16: bit ``lane % 8`` in the lanes in which a condition holds, 0 in the others."""
    positions = T.bitwise_and(T.ramp(T.uint8(0), T.uint8(1), LANES), T.broadcast(T.uint8(7), LANES))
    bits = T.shift_left(T.broadcast(T.uint8(1), LANES), positions)
    return T.Select(condition, bits, T.broadcast(T.uint8(0), LANES))


def element_count(dtype: str) -> int:
    """Elements of a register."""
    return REGISTER_BITS // (np.dtype(dtype).itemsize * 8)


def split(value: Expr, dtype: str) -> list[Expr]:
    """The four registers of a vector of 16 lanes whose elements are `dtype`."""
    parts, count = [T.bind(value)], LANES * 32 // REGISTER_BITS * element_count(dtype)
    while count > element_count(dtype):
        count //= 2
        half = f"{dtype}x{count}"
        parts = [T.bind(take(half, part)) for part in parts for take in (T.vectorlow, T.vectorhigh)]
    return parts


def join(registers: Sequence[Expr], dtype: str) -> Expr:
    """One vector of registers whose elements are `dtype`."""
    parts, count = list(registers), element_count(dtype)
    while len(parts) > 1:
        count *= 2
        kind = f"{dtype}x{count}"
        parts = [T.vectorcombine(kind, low, high) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
