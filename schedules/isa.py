"""Vector instruction sets as TensorIR expressions: what kernels of every architecture are written with."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from tvm.script.ir_builder import tirx as T

Expr = Any

STACK = {"disable_lower_builtin": True}
"""Annotation that keeps a buffer on the stack, from where LLVM moves it to registers (TVM 0.27)."""


class Isa(Protocol):
    """What a schedule offers to the kernel templates."""

    @property
    def lanes(self) -> int:
        """32-bit lanes of a vector."""

    @property
    def accumulators(self) -> int:
        """Vector accumulators that fit into registers beside the operands."""

    def movemask(self, condition: Expr) -> Expr:
        """Bits of a vector condition, lane 0 least significant, as uint{lanes}."""


def vector(dtype: str, isa: Isa) -> str:
    """The vector type of `lanes` elements of `dtype`."""
    return f"{dtype}x{isa.lanes}"


def broadcast(value: Expr, isa: Isa) -> Expr:
    """A vector with `value` in each lane."""
    return T.broadcast(value, isa.lanes)


def constant(value: float, dtype: str, isa: Isa) -> Expr:
    """A vector constant."""
    literal = int(value) if dtype.startswith(("int", "uint")) else float(value)
    return T.broadcast(getattr(T, dtype)(literal), isa.lanes)


def load(buffer: Expr, index: Expr, isa: Isa) -> Expr:
    """One vector from consecutive elements."""
    return buffer[T.ramp(index, 1, isa.lanes)]


def store(buffer: Expr, value: Expr, index: Expr, isa: Isa) -> None:
    """One vector to consecutive elements."""
    T.buffer_store(buffer, value, [T.ramp(index, 1, isa.lanes)])


def fence(value: Expr, dtype: str) -> Expr:
    """Keeps LLVM from contracting a product with the sum that follows: each is rounded once (TVM 0.27 allows FMA)."""
    return T.call_llvm_pure_intrin(dtype, "llvm.arithmetic.fence", value)


def element_bits(dtype: str) -> int:
    """Bits of one element, such as 8 of ``uint8``."""
    return np.dtype(dtype).itemsize * 8


def zero(dtype: str) -> Expr:
    """A vector of zeros, `dtype` such as ``uint8x32``."""
    element, lanes = dtype.split("x")
    return T.broadcast(getattr(T, element)(0), int(lanes))


def registers(count: int, dtype: str) -> Expr:
    """`count` values (scalars or vectors) that LLVM keeps in registers."""
    return T.alloc_buffer((count,), dtype, scope="global", annotations=STACK)


def zeros(count: int, dtype: str) -> Expr:
    """`count` vectors of zeros that LLVM keeps in registers."""
    held = registers(count, dtype)
    for index in range(count):
        T.buffer_store(held, zero(dtype), [index])
    return held
