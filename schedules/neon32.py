"""NEON of 32-bit ARM: 16 registers, and other names for the instructions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tvm.script.ir_builder import tirx as T

from .isa import Expr
from .neon import LANES, Neon, join, lane_bits, split


@dataclass(frozen=True, kw_only=True)
class Neon32(Neon):
    """Vector operations of ARMv7-A with NEON; neighbours are added up by VPADDL."""

    pair_sums: ClassVar[dict[str, str]] = {
        "uint8": "llvm.arm.neon.vpaddlu.v8i16.v16i8",
        "uint16": "llvm.arm.neon.vpaddlu.v4i32.v8i16",
    }

    @property
    def accumulators(self) -> int:
        """Vectors of 16 lanes that stay in 16 registers beside the operands."""
        return 2

    def movemask(self, condition: Expr) -> Expr:
        """As `Neon.movemask`; VPADD takes two halves of a register."""
        held = T.bind(lane_bits(condition))
        low, high = T.vectorlow("uint8x8", held), T.vectorhigh("uint8x8", held)
        for _ in range(3):
            low = high = T.bind(T.call_llvm_pure_intrin("uint8x8", "llvm.arm.neon.vpadd.v8i8", low, high))
        return T.Shuffle([T.reinterpret("uint16x4", low)], [0])

    def add_byte_pairs(self, total: Expr, value: Expr) -> Expr:
        """As `Neon.add_byte_pairs`: VPADAL by name, for LLVM regroups the sums of VPADDL and spills them."""
        name = "llvm.arm.neon.vpadalu.v8i16.v16i8"
        sums = [
            T.call_llvm_pure_intrin("uint16x8", name, held, part)
            for held, part in zip(split(total, "uint16"), split(value, "uint8"), strict=True)
        ]
        return join(sums, "uint16")

    def add_bytes(self, total: Expr, value: Expr) -> Expr:
        """As `Neon.add_bytes`: VQADD."""
        name = f"llvm.uadd.sat.v{LANES * 4}i8"
        return T.call_llvm_pure_intrin(f"uint8x{LANES * 4}", name, total, value)
