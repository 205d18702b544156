"""The epilogue that every kernel shares, emitted: from sums or values to what the stores hold."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

from tvm.script.ir_builder import tirx as T

from .buffers import pixel_index
from .epilogue import (
    COMPARED,
    AddStep,
    AffineStep,
    ClampStep,
    Epilogue,
    HardSwishStep,
    LeakyStep,
    LevelQuantizer,
    Step,
    Store,
    trailing_clamps,
)
from .formats import Format
from .isa import Expr, Isa, constant, fence, load, prefetch, store, vector
from .quantizers import store_levels, uniform_code, uniform_steps

LINE = 16
"""float32 values in a line of the cache."""


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
        if not isinstance(item.quantizer, LevelQuantizer):
            raise TypeError("levels need a level quantizer")
        base = self.pixel(item.format, y, x)
        store_levels(output, item.format, item.quantizer.stored, conditions, base, block, self.isa)


def _clamped(value: Expr, step: ClampStep, dtype: str, isa: Isa) -> Expr:
    if step.low != float("-inf"):
        value = T.max(value, constant(step.low, dtype, isa))
    return value if step.high == float("inf") else T.min(value, constant(step.high, dtype, isa))
