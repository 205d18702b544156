"""The kernel families on CUDA cores: how a thread multiplies a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .cuda_contraction import WarpContraction
from .cuda_device import device_call
from .cuda_warp import LANES, locals_of, word_at
from .isa import Expr, load
from .problem import ConvShape, SumRule
from .words import Words


@dataclass(frozen=True, kw_only=True)
class WarpWords(Words):
    """What the families on CUDA cores have in common."""

    builder = WarpContraction

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """Four bytes of one pixel: 32 bits of a plane, or four channels."""
        return [word_at(source, index)]

    def workspace(self, shape: ConvShape, rule: SumRule) -> int:  # noqa: ARG002 - CPUs need both
        """None: every warp counts the ones of its own windows."""
        return 0


@dataclass(frozen=True, kw_only=True)
class Popcount(WarpWords):
    """AND and POPC: 32 bits a thread and step."""

    accumulator: str = "uint32"
    weight_dtype: str = "uint32"
    cycles: float = 2.0

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """``accumulator + popcount(weight & activation)``."""
        return accumulator + T.popcount(weight[0] & activation[0])


@dataclass(frozen=True, kw_only=True)
class Dot8(WarpWords):
    """DP4A: four products of unsigned by signed bytes a thread and step."""

    accumulator: str = "int32"
    weight_dtype: str = "int32"
    cycles: float = 1.0

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds four products."""
        return device_call("lq_dot", activation[0], weight[0], accumulator, dtype="int32")


@dataclass(frozen=True, kw_only=True)
class FloatFma(WarpWords):
    """One float32 multiply-add a thread and step (the order of summation is free)."""

    accumulator: str = "float32"
    weight_dtype: str = "float32"
    word_elements: int = 1
    cycles: float = 1.0

    def activation(self, source: Any, index: Expr) -> list[Expr]:
        """One channel of one pixel."""
        return [source[index]]

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """``accumulator + activation * weight``, rounded once."""
        return device_call("__fmaf_rn", activation[0], weight[0], accumulator, dtype="float32")


class DepthwiseContraction(WarpContraction):
    """Output channel c reads input channel c alone: each thread reads its own."""

    windowed = False

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums over all taps."""
        shape, blocks, kind = self.shape, self.tile.blocks, self.family.accumulator
        held = locals_of(len(bases) * blocks, kind, 0)
        # Channels beyond the stored ones have weights of zero: they may read any.
        last = shape.source.padded_channels - LANES
        with T.serial(0, shape.kernel[0]) as r, T.serial(0, shape.kernel[1]) as c:
            at = ((block * shape.kernel[0] + r) * shape.kernel[1] + c) * blocks
            for n in range(blocks):
                weight = T.bind(T.cast(load(self.weights, (at + n) * LANES, self.isa), kind))
                channel = T.min((block * blocks + n) * LANES, last)
                for m, base in enumerate(bases):
                    value = T.cast(load(self.source, base + self.tap(r, c) + channel, self.isa), kind)
                    T.buffer_store(held, held[m * blocks + n] + value * weight, [m * blocks + n])
        return held


@dataclass(frozen=True, kw_only=True)
class Depthwise(WarpWords):
    """Products of channels thread by thread: of float32, or of bytes by int8 weights into int32."""

    builder = DepthwiseContraction
    cycles: float = 1.0
