"""Vector instruction sets as TensorIR expressions: what kernels of every architecture are written with."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from tvm.script.ir_builder import tirx as T

Expr = Any

STACK = {"disable_lower_builtin": True}
"""Annotation that keeps a buffer on the stack, from where LLVM moves it to registers (TVM 0.27)."""

LINE = 64
"""Bytes of a cache line: a vector across two of them takes two accesses. TVM aligns stacks to 16."""


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

    def vector(self, dtype: str) -> str:
        """See the function `vector`."""

    def constant(self, value: float, dtype: str) -> Expr:
        """See the function `constant`."""

    def broadcast(self, value: Expr) -> Expr:
        """See the function `broadcast`."""

    def load(self, buffer: Expr, index: Expr) -> Expr:
        """See the function `load`."""

    def store(self, buffer: Expr, value: Expr, index: Expr) -> None:
        """See the function `store`."""

    def fence(self, value: Expr, dtype: str) -> Expr:
        """See the function `fence`."""

    def to_bytes(self, value: Expr) -> Expr:
        """An int32 vector of 0 to 255 as uint8."""


class Registers:
    """Vectors that are values of their own, as CPUs have them (on a GPU the lanes are threads).

    Attributes:
        prefetches: whether tiles ask for lines of the cache before they need them.
    """

    lanes: int
    prefetches: bool = False

    def vector(self, dtype: str) -> str:
        """A TensorIR vector type."""
        return f"{dtype}x{self.lanes}"

    def constant(self, value: float, dtype: str) -> Expr:
        """The literal in each lane."""
        return self.broadcast(getattr(T, dtype)(value))

    def broadcast(self, value: Expr) -> Expr:
        """The value in each lane."""
        return T.broadcast(value, self.lanes)

    def load(self, buffer: Expr, index: Expr) -> Expr:
        """One vector load."""
        return buffer[T.ramp(index, 1, self.lanes)]

    def store(self, buffer: Expr, value: Expr, index: Expr) -> None:
        """One vector store."""
        T.buffer_store(buffer, value, [T.ramp(index, 1, self.lanes)])

    def fence(self, value: Expr, dtype: str) -> Expr:
        """Opaque to LLVM's contraction of products and sums (TVM 0.27 allows FMA)."""
        return T.call_llvm_pure_intrin(dtype, "llvm.arithmetic.fence", value)

    def to_bytes(self, value: Expr) -> Expr:
        """An int32 vector of 0 to 255 as uint8."""
        return T.cast(value, self.vector("uint8"))


def vector(dtype: str, isa: Isa) -> str:
    """The type of a vector of `lanes` elements of `dtype`."""
    return isa.vector(dtype)


def broadcast(value: Expr, isa: Isa) -> Expr:
    """A vector with `value` in each lane."""
    return isa.broadcast(value)


def constant(value: float, dtype: str, isa: Isa) -> Expr:
    """A vector constant."""
    return isa.constant(int(value) if dtype.startswith(("int", "uint")) else float(value), dtype)


def load(buffer: Expr, index: Expr, isa: Isa) -> Expr:
    """One vector from consecutive elements."""
    return isa.load(buffer, index)


def store(buffer: Expr, value: Expr, index: Expr, isa: Isa) -> None:
    """One vector to consecutive elements."""
    isa.store(buffer, value, index)


def prefetch(buffer: Expr, index: Expr) -> None:
    """Asks for the line of the cache that holds an element, to be written too; it may lie outside the buffer."""
    write, nearest, data = 1, 3, 1
    T.evaluate(T.call_intrin("void", "tirx.prefetch", T.address_of(buffer[index]), write, nearest, data))


def fence(value: Expr, dtype: str, isa: Isa) -> Expr:
    """Keeps the compiler from contracting a product with the sum that follows: each is rounded once."""
    return isa.fence(value, dtype)


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


def stack_buffer(count: int, dtype: str) -> Expr:
    """A buffer of a task, on the stack of its thread, from the start of a cache line on."""
    size = element_bits(dtype) // 8
    room = T.alloc_buffer((count + LINE // size,), dtype, scope="global", annotations=STACK)
    address = T.reinterpret("uint64", T.address_of(room[0]))
    skip = T.bind(T.cast((T.uint64(LINE) - address % T.uint64(LINE)) // T.uint64(size), "int32"))
    return T.decl_buffer((count,), dtype, data=room.data, elem_offset=skip, scope="global")


def zeros(count: int, dtype: str) -> Expr:
    """`count` vectors of zeros that LLVM keeps in registers."""
    held = registers(count, dtype)
    for index in range(count):
        T.buffer_store(held, zero(dtype), [index])
    return held
