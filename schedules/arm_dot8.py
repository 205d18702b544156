"""8-bit products on ARM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .isa import Expr, vector
from .neon import LANES, Neon
from .words import Words


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
