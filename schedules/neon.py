"""NEON vector operations as TensorIR expressions.

A NEON register has four 32-bit lanes, too few for the epilogue to pack bits. The vectors of these kernels have 16: LLVM
makes four registers of each, and the four share one broadcast of the activation.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm.script.ir_builder import tirx as T

from .isa import Expr

LANES = 16
"""Channels of a vector: four registers of 32-bit lanes, one of bytes."""


@dataclass(frozen=True, kw_only=True)
class Neon:
    """Vector operations of one ARM target.

    Args:
        dot_product: SDOT and UDOT are there (FEAT_DotProd).
        matrix: SMMLA, UMMLA, USMMLA and USDOT are there (FEAT_I8MM).
    """

    dot_product: bool = False
    matrix: bool = False
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
