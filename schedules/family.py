"""What loop nests ask of a kernel family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from .isa import Expr, Isa
from .problem import ConvShape, SumRule


class Family(Protocol):
    """One way to multiply words."""

    @property
    def isa(self) -> Isa:
        """Instruction set."""

    @property
    def accumulator(self) -> str:
        """Dtype of an accumulator lane."""

    @property
    def vectors(self) -> int:
        """Weight vectors per word."""

    @property
    def channels(self) -> int:
        """Output channels of a vector: the lanes of the ISA, or a multiple of them."""

    @property
    def total(self) -> str:
        """Dtype of what `flush` adds to: int32, or the type that `channels` lanes need where those are more."""

    @property
    def table_size(self) -> int:
        """Bytes of a constant table that `Lookup` families read; 0 for the others."""

    @property
    def weight_dtype(self) -> str:
        """Element type of the packed weights."""

    @property
    def flush_steps(self) -> int:
        """Steps after which `flush` must run; 0 where accumulators are wide enough."""

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """Broadcast vectors of the word at element `index`."""

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """The accumulator after one word."""

    def workspace(self, shape: ConvShape, rule: SumRule) -> int:
        """int32 elements of the workspace; 0 for none."""

    def flush(self, total: Expr, accumulator: Expr) -> Expr:
        """`total` plus the widened accumulator (only with `flush_steps`)."""

    @property
    def word_elements(self) -> int:
        """Elements of the input buffer in one word."""

    @property
    def cycles(self) -> float:
        """Arithmetic-port cycles of one step."""

    @property
    def latency(self) -> float:
        """Cycles from one step of an accumulator to the next."""

    @property
    def instructions(self) -> int:
        """Instructions of one step."""

    @property
    def operand_instructions(self) -> int:
        """Instructions of the operands of an activation."""


class TileProof(Protocol):
    """What the weights of a 3x3 layer and its largest code prove of products on transformed tiles."""

    @property
    def largest(self) -> int:
        """Code."""

    @property
    def channels(self) -> int:
        """Of the input."""

    def fits_bytes(self) -> bool:
        """Whether transformed codes and weights fit bytes, what the output map weighs with included."""

    def sixteen_bit_run(self) -> int:
        """Words of transformed products that can be summed in 16 bits; 0: not even one."""


class Lookup(Protocol):
    """A family whose activation operands are rows of a table."""

    def table(self) -> npt.NDArray[np.uint8]:
        """The table, flat."""

    def look_up(self, table: Any, source: Any, index: Expr) -> list[Expr]:
        """In place of `Family.activation`."""


class CarrySave(Protocol):
    """A family that counts bits of carry-save adders (Harley-Seal)."""

    def count(self, total: Expr, word: Expr, weight: int) -> Expr:
        """``total + weight * popcount(word)`` per lane."""

    def full_adder(self, a: Expr, b: Expr, c: Expr) -> tuple[Expr, Expr]:
        """(carry, sum) of three bits in each position."""
