"""Vectors of bytes for table look-ups: an output channel in each of 32 (AVX2) or 64 (AVX-512) of them.

VPSHUFB looks up bytes in each 128 bits of a vector on their own, so a row of a table has 16 entries, and each 128 bits
hold it.
"""

from __future__ import annotations

from tvm.script.ir_builder import tirx as T

from .isa import Expr
from .x86_families import X86

ROW_BYTES = 16
"""Entries of a row: one for each nibble of weights."""


def byte_lanes(isa: X86) -> int:
    """Bytes of a vector."""
    return isa.lanes * 4


def spread(row: Expr, isa: X86) -> Expr:
    """A row in each 128 bits (VBROADCASTI128, VBROADCASTI32X4).

    Args:
        row: uint8x16.
        isa: instruction set.

    Returns:
        Its bytes, as many as a vector has.
    """
    part = T.bind(T.reinterpret("uint64x2", row))
    count = byte_lanes(isa) // ROW_BYTES
    return T.bind(T.reinterpret(isa.bytes_type, T.Shuffle([part] * count, [0, 1] * count)))


def shuffle(row: Expr, nibbles: Expr, isa: X86) -> Expr:
    """Entries of a row that `spread` made, by nibbles in bytes (VPSHUFB)."""
    name = "llvm.x86.avx512.pshuf.b.512" if isa.lanes == 16 else "llvm.x86.avx2.pshuf.b"
    return T.call_llvm_pure_intrin(isa.bytes_type, name, row, nibbles)


def words_of(value: Expr, isa: X86) -> Expr:
    """Pairs of bytes as words: uint16, half as many."""
    return T.reinterpret(words_type(isa), value)


def words_type(isa: X86) -> str:
    """A vector of unsigned words."""
    return f"uint16x{isa.lanes * 2}"


def splat_words(value: int, isa: X86) -> Expr:
    """A vector of equal words."""
    return T.broadcast(T.uint16(value), isa.lanes * 2)


def splat(value: int, lanes: int) -> Expr:
    """A vector of equal bytes."""
    return T.broadcast(T.uint8(value), lanes)
