"""The epilogue that every kernel shares: from sums to stages, quantizers and packed stores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tvm.script.ir_builder import tirx as T

from .formats import Format
from .isa import Expr, Isa, constant, fence, load, prefetch, store, vector


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


LINE = 16
"""float32 values in a line of the cache."""

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


def pixel_index(form: Format, y: Expr, x: Expr) -> Expr:
    """Index of the first element of pixel (y, x)."""
    return ((y + form.halo[0]) * form.padded_width + (x + form.halo[1])) * form.pixel


def fill_halo(buffer: Expr, form: Format) -> None:
    """Writes the pad value into the halo."""
    top, left, bottom, right = form.halo
    value = getattr(T, form.dtype)(form.pad)
    row = form.padded_width * form.pixel

    def fill(start: Expr, count: int) -> None:
        if count:
            with T.serial(0, count) as index:
                T.buffer_store(buffer, value, [start + index])

    fill(0, top * row)
    fill((top + form.height) * row, bottom * row)
    if left or right:
        with T.serial(0, form.height) as y:
            start = (y + top) * row
            fill(start, left * form.pixel)
            fill(start + (left + form.width) * form.pixel, right * form.pixel)


def uniform_steps(value: Expr, step: UniformStep, isa: Isa) -> Expr:
    """``q - zero_point`` of a uniform quantizer, a float32 vector."""
    rounded = T.nearbyint(value / constant(step.scale, "float32", isa))
    low, high = step.low - step.zero_point, step.high - step.zero_point
    return T.min(T.max(rounded, constant(low, "float32", isa)), constant(high, "float32", isa))


def uniform_code(value: Expr, step: UniformStep, isa: Isa) -> Expr:
    """The code that a uniform quantizer stores, an int32 vector."""
    steps = T.cast(uniform_steps(value, step, isa), vector("int32", isa))
    return steps + constant(step.zero_point + step.bias, "int32", isa)


def trailing_clamps(steps: Sequence[Step]) -> list[ClampStep]:
    """The stages at the end that are clamps to float32 numbers."""
    found: list[ClampStep] = []
    for step in reversed(steps):
        if not isinstance(step, ClampStep) or any(float(np.float32(at)) != at for at in (step.low, step.high)):
            break
        found.insert(0, step)
    return found


def _clamped(value: Expr, step: ClampStep, dtype: str, isa: Isa) -> Expr:
    if step.low != float("-inf"):
        value = T.max(value, constant(step.low, dtype, isa))
    return value if step.high == float("inf") else T.min(value, constant(step.high, dtype, isa))


class Emitter:
    """Emits an epilogue for one vector of channels of one pixel at a time.

    Args:
        isa: instruction set.
        epilogue: what to emit.
        parameters: buffers in the order of `Epilogue.parameters`.
        residuals: buffers in the order of `Epilogue.residuals`.
        outputs: buffers in the order of the stores.
        channels: physical channels of the parameters (row length of integer thresholds).
    """

    def __init__(
        self,
        isa: Isa,
        epilogue: Epilogue,
        *,
        parameters: Sequence[Any],
        residuals: Sequence[Any],
        outputs: Sequence[Any],
        channels: int,
    ) -> None:
        self.isa = isa
        self.epilogue = epilogue
        self.parameters = list(parameters)
        self.residuals = list(residuals)
        self.outputs = list(outputs)
        self.channels = channels

    def pixel(self, form: Format, y: Expr, x: Expr) -> Expr:
        """Index of the first element of pixel (y, x) in a buffer of the format."""
        return pixel_index(form, y, x)

    def has_streams(self) -> bool:
        """Whether there is anything to `prefetch`."""
        return bool(self._streams())

    def prefetch(self, y: Expr, x: Expr, block: Expr, vectors: int) -> None:
        """Brings the float32 lines that `emit` reads and writes into the cache, for some vectors of a pixel.

        They lie beyond the second-level cache, and are read and written in bursts behind the sums of a tile: what
        waits for them then could have been under way.
        """
        for form, buffer in self._streams():
            first = self.pixel(form, y, x) + block * self.isa.lanes
            for skip in range(0, vectors * self.isa.lanes, LINE):
                prefetch(buffer, first + skip)

    def emit(self, value: Expr, y: Expr, x: Expr, block: Expr) -> None:
        """Stages, quantizers and stores.

        Args:
            value: int32 vector (mode ``integer``), float64 or float32 vector (the other modes).
            y: output row.
            x: output column.
            block: vector index along the channels.
        """
        parameters = iter(self.parameters)
        residuals = iter(self.residuals)
        channel = block * self.isa.lanes
        if self.epilogue.mode in COMPARED:
            for item, output in zip(self.epilogue.stores, self.outputs, strict=True):
                self._compare(item, output, value, parameters, y, x, block)
            return
        stream = self._rounded(value, self.epilogue.steps, parameters, residuals, y, x, channel)
        for item, output in zip(self.epilogue.stores, self.outputs, strict=True):
            if item.per_channel:
                self._compare(item, output, stream, parameters, y, x, block)
                continue
            result = stream
            if item.steps:
                result = self._rounded(stream, item.steps, parameters, residuals, y, x, channel)
            with self._inside(item.format, channel):
                self._store(item, output, result, y, x, block)

    def _streams(self) -> list[tuple[Format, Any]]:
        """Formats and buffers of the float32 tensors that are read and written."""
        read = list(zip(self.epilogue.residuals(), self.residuals, strict=True))
        written = [(item.format, buffer) for item, buffer in zip(self.epilogue.stores, self.outputs, strict=False)]
        return [(form, buffer) for form, buffer in read + written if form.kind == "f32"]

    def _compare(self, item: Store, output: Expr, value: Expr, parameters: Any, y: Expr, x: Expr, block: Expr) -> None:
        """Stores the levels that thresholds of each channel give."""
        channel = block * self.isa.lanes
        thresholds = next(parameters)
        if item.complement:
            turn = load(next(parameters), channel, self.isa)
            value = T.bind(T.bitwise_xor(value, turn) if self.epilogue.mode == "integer" else value * turn)
        conditions = self._channel_conditions(value, item, thresholds, channel)
        with self._inside(item.format, channel):
            self._store_levels(item, output, conditions, y, x, block)

    def _inside(self, form: Format, channel: Expr) -> AbstractContextManager[object]:
        """Runs what follows for vectors that a pixel of `form` has: other outputs may pad to more channels."""
        if form.padded_channels >= self.channels:
            return nullcontext()
        stack = ExitStack()
        stack.enter_context(T.If(channel < form.padded_channels))
        stack.enter_context(T.Then())
        return stack

    def _rounded(
        self, value: Expr, steps: Sequence[Step], parameters: Any, residuals: Any, y: Expr, x: Expr, channel: Expr
    ) -> Expr:
        """The stages in float64, rounded to float32; clamps at their end follow the rounding, which keeps the order."""
        isa = self.isa
        single = vector("float32", isa)
        clamps = trailing_clamps(steps)
        chain = steps[: len(steps) - len(clamps)]
        if chain or self.epilogue.mode == "float64":
            # LLVM 22 compares the float64 in its place otherwise, two vectors for one.
            stream = self._steps(value, chain, parameters, residuals, y, x, channel)
            value = T.bind(fence(T.cast(stream, single), single, isa))
        for step in clamps:
            value = T.bind(_clamped(value, step, "float32", isa))
        return value

    def _steps(
        self, value: Expr, steps: Sequence[Step], parameters: Any, residuals: Any, y: Expr, x: Expr, channel: Expr
    ) -> Expr:
        isa = self.isa
        double = vector("float64", isa)
        if steps:
            value = T.cast(value, double)
        for step in steps:
            if isinstance(step, AffineStep):
                if step.scaled:
                    value = fence(value * load(next(parameters), channel, isa), double, isa)
                if step.shifted:
                    value = value + load(next(parameters), channel, isa)
            elif isinstance(step, ClampStep):
                value = _clamped(value, step, "float64", isa)
            elif isinstance(step, LeakyStep):
                zero = constant(0.0, "float64", isa)
                below = fence(T.min(value, zero) * load(next(parameters), channel, isa), double, isa)
                value = T.max(value, zero) + below
            elif isinstance(step, HardSwishStep):
                line = fence(value * constant(step.alpha, "float64", isa), double, isa)
                line = T.max(line + constant(step.beta, "float64", isa), constant(0.0, "float64", isa))
                value = value * T.min(line, constant(1.0, "float64", isa))
            else:
                other = T.cast(self._joined(step.format, next(residuals), y, x, channel), double)
                value = value + other if isinstance(step, AddStep) else value * other
            value = T.bind(value)
        return value

    def _joined(self, form: Format, buffer: Any, y: Expr, x: Expr, channel: Expr) -> Expr:
        """A vector of what joins in; vectors behind its last channel are padding of another output: any value does."""
        last = form.padded_channels - self.isa.lanes
        inner = channel if form.padded_channels >= self.channels else T.min(channel, last)
        single = form.height == form.width == 1
        pixel = self.pixel(form, T.int32(0), T.int32(0)) if single else self.pixel(form, y, x)
        return load(buffer, pixel + inner, self.isa)

    def _channel_conditions(self, value: Expr, item: Store, thresholds: Expr, channel: Expr) -> list[Expr]:
        if not isinstance(item.quantizer, LevelQuantizer):
            raise TypeError("thresholds per channel need a level quantizer")
        count = len(item.quantizer.thresholds)
        return [value > load(thresholds, level * self.channels + channel, self.isa) for level in range(count)]

    def _store(self, item: Store, output: Expr, value: Expr, y: Expr, x: Expr, block: Expr) -> None:
        isa = self.isa
        if isinstance(item.quantizer, LevelQuantizer):
            conditions = [value > constant(bound, "float32", isa) for bound in item.quantizer.thresholds]
            self._store_levels(item, output, conditions, y, x, block)
            return
        index = self.pixel(item.format, y, x) + block * isa.lanes
        if item.quantizer is None:
            store(output, value, index, isa)
            return
        step = item.quantizer
        if step.decode:
            store(output, uniform_steps(value, step, isa) * constant(step.scale, "float32", isa), index, isa)
            return
        store(output, isa.to_bytes(T.bind(uniform_code(value, step, isa))), index, isa)

    def _store_levels(
        self, item: Store, output: Expr, conditions: Sequence[Expr], y: Expr, x: Expr, block: Expr
    ) -> None:
        """Conditions ``level > l`` (each implies those before it) to codes, integers or float levels."""
        if not isinstance(item.quantizer, LevelQuantizer):
            raise TypeError("levels need a level quantizer")
        isa, form, stored = self.isa, item.format, item.quantizer.stored
        base = self.pixel(form, y, x)
        if form.kind != "bits":
            dtype = "float32" if form.kind == "f32" else "int32"
            value = constant(stored[0], dtype, isa)
            for condition, level in zip(conditions, stored[1:], strict=True):
                value = T.Select(condition, constant(level, dtype, isa), value)
            result = value if form.kind == "f32" else isa.to_bytes(T.bind(value))
            store(output, result, base + block * isa.lanes, isa)
            return
        codes = [int(code) for code in stored]
        masks = [T.bind(isa.movemask(condition)) for condition in conditions]
        word = f"uint{isa.lanes}"
        bits = form.planes - form.ones_plane
        for plane in range(form.planes):
            if plane == bits:
                mask = getattr(T, word)((1 << isa.lanes) - 1)
            else:
                mask = getattr(T, word)(-(codes[0] >> plane & 1) & ((1 << isa.lanes) - 1))
                for level, above in enumerate(masks):
                    if (codes[level] ^ codes[level + 1]) >> plane & 1:
                        mask = mask ^ above
            if form.padded_channels != form.channels:
                mask = mask & self._valid_lanes(form, block, word)
            index = base + plane * (form.padded_channels // 8) + block * (isa.lanes // 8)
            count = isa.lanes // 8
            if count == 1:
                T.buffer_store(output, mask, [index])
            else:
                T.buffer_store(output, T.reinterpret(f"uint8x{count}", mask), [T.ramp(index, 1, count)])

    def _valid_lanes(self, form: Format, block: Expr, word: str) -> Expr:
        """Bits of the lanes that hold channels: the tail of the last word stays zero, popcounts rely on it."""
        lanes = self.isa.lanes
        rest = T.min(T.max(form.channels - block * lanes, 0), lanes)
        return T.cast(T.shift_left(T.int64(1), T.cast(rest, "int64")) - T.int64(1), word)
