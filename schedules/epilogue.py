"""What every kernel ends in: stages, quantizers and stores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .formats import Format


@dataclass(frozen=True, kw_only=True)
class AffineStep:
    """``x * scale + shift`` in float64; the two come from parameters, [channels] each.

    Args:
        scaled: False where every scale is 1: there is no such parameter.
        shifted: False where every shift is 0.
    """

    scaled: bool = True
    shifted: bool = True


@dataclass(frozen=True, kw_only=True)
class ClampStep:
    """``min(max(x, low), high)``."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class LeakyStep:
    """``max(x, 0) + slope * min(x, 0)`` in float64; the slope comes from parameters, [channels]."""


@dataclass(frozen=True, kw_only=True)
class HardSwishStep:
    """``x * min(max(x * alpha + beta, 0), 1)`` in float64."""

    alpha: float
    beta: float


@dataclass(frozen=True, kw_only=True)
class AddStep:
    """Adds a float32 tensor (residual)."""

    format: Format


@dataclass(frozen=True, kw_only=True)
class MultiplyStep:
    """Multiplies by a float32 tensor; an image of 1x1 holds one number per channel for every pixel."""

    format: Format


Step = AffineStep | ClampStep | LeakyStep | HardSwishStep | AddStep | MultiplyStep


@dataclass(frozen=True, kw_only=True)
class LevelQuantizer:
    """``#(x > thresholds)`` and what to store for each level.

    Args:
        thresholds: float32, ascending.
        stored: per level: the code (``bits``), the integer (``u8``) or the float32 level (``f32``).
    """

    thresholds: tuple[float, ...]
    stored: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class UniformStep:
    """ONNX QuantizeLinear: round half to even of ``x / scale`` in float32, plus zero point, saturated to [low, high].

    `bias` is added to what is stored (128 makes int8 codes unsigned); ``decode`` stores ``(q - zero_point) * scale``.
    """

    scale: float
    zero_point: int
    low: int
    high: int
    bias: int = 0
    decode: bool = False


@dataclass(frozen=True, kw_only=True)
class Store:
    """One output of a kernel: stages on the stream, a quantizer, and where it goes.

    Args:
        format: of the output.
        steps: on the stream.
        quantizer: what is stored; None for the values themselves.
        per_channel: levels come from thresholds of each channel, on the sum (modes ``integer`` and ``real``, always)
            or on the stream: a parameter [levels - 1, channels].
        complement: a parameter [channels]: 0 and -1 by which an integer sum is XORed, or 1 and -1 by which a real one
            is multiplied, before it is compared with such thresholds: -1 where what the quantizer sees falls as that
            rises.
    """

    format: Format
    steps: tuple[Step, ...] = ()
    quantizer: LevelQuantizer | UniformStep | None = None
    per_channel: bool = False
    complement: bool = False


Mode = Literal["float64", "float32", "integer", "real", "sums"]

COMPARED = {"integer": "int32", "real": "float64"}
"""Modes in which the value itself is compared with thresholds per channel, and its dtype."""


@dataclass(frozen=True, kw_only=True)
class Epilogue:
    """What happens to the sums of a contraction or the values of a map.

    Args:
        mode: ``float64`` and ``float32``: steps follow; ``integer``: quantizers compare the one integer sum with
            integer thresholds (a parameter per store, int32[levels - 1, channels]); ``sums``: the integers themselves
            are stored.
        steps: stages up to the stream.
        stores: at least one.
    """

    mode: Mode
    steps: tuple[Step, ...]
    stores: tuple[Store, ...]

    def parameters(self) -> list[tuple[str, int]]:
        """(dtype, rows of channels) of the parameter buffers that `Emitter.emit` takes, in order."""
        found: list[tuple[str, int]] = []

        def collect(steps: tuple[Step, ...]) -> None:
            for step in steps:
                if isinstance(step, AffineStep):
                    found.extend([("float64", 1)] * (step.scaled + step.shifted))
                elif isinstance(step, LeakyStep):
                    found.append(("float64", 1))

        collect(self.steps)
        for item in self.stores:
            collect(item.steps)
            if item.per_channel and isinstance(item.quantizer, LevelQuantizer):
                dtype = COMPARED.get(self.mode, "float32")
                found.append((dtype, len(item.quantizer.thresholds)))
                found += [(dtype, 1)] if item.complement else []
        return found

    def residuals(self) -> list[Format]:
        """Formats of the residual buffers, in order."""
        return [step.format for step in self.steps if isinstance(step, AddStep | MultiplyStep)]


def trailing_clamps(steps: Sequence[Step]) -> list[ClampStep]:
    """The stages at the end that are clamps to float32 numbers."""
    found: list[ClampStep] = []
    for step in reversed(steps):
        if not isinstance(step, ClampStep) or any(float(np.float32(at)) != at for at in (step.low, step.high)):
            break
        found.insert(0, step)
    return found
