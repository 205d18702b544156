"""32-bit ARM processors with NEON: kernel families and register tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from lqcompile.target import Target

from .arm_cpu import depthwise, image_kind, maps, space, tile
from .arm_popcount import Popcount
from .isa import Expr, vector
from .neon32 import Neon32
from .packed import Packed
from .words import FloatFma, Words

__all__ = ["depthwise", "family", "image_kind", "machine", "maps", "space", "tile"]


@dataclass(frozen=True, kw_only=True)
class MultiplyWide(Words):
    """VMLAL on 16-bit factors: one product per lane and step."""

    isa: Neon32
    accumulator: str = "int32"
    weight_dtype: str = "int16"
    vectors: int = 4
    cycles: float = 16.0

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """Four channels of one pixel as 16-bit factors, each in every lane."""
        word = T.bind(T.cast(source[T.ramp(index, 1, 4)], "int16x4"))
        return [T.broadcast(T.Shuffle([word], [channel]), self.isa.lanes) for channel in range(4)]

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds four products per lane."""
        wide = vector("int32", self.isa)
        for factor, weights in zip(activation, weight, strict=True):
            accumulator = accumulator + T.cast(weights, wide) * T.cast(factor, wide)
        return accumulator


def machine(target: Target) -> Neon32:  # noqa: ARG001
    """The vector operations of `target`."""
    return Neon32()


def family(isa: Neon32, name: str) -> Any:
    """The kernel family called `name`: ``popcount``, ``dot8``, ``float`` or ``packed``.

    Raises:
        KeyError: there is none.
    """
    makers: dict[str, Callable[[Neon32], Any]] = {
        "popcount": lambda machine: Popcount(isa=machine, accumulator="uint16", cycles=6.0),
        "dot8": lambda machine: MultiplyWide(isa=machine),
        "float": lambda machine: FloatFma(isa=machine),
        "packed": lambda machine: Packed(isa=machine),
    }
    return makers[name](isa)
