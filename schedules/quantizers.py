"""Quantizers emitted: from values to codes, the integers they stand for, or float levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from .epilogue import UniformStep
from .formats import Format
from .isa import Expr, Isa, constant, store, vector


def uniform_steps(value: Expr, step: UniformStep, isa: Isa) -> Expr:
    """``q - zero_point`` of a uniform quantizer, a float32 vector."""
    rounded = T.nearbyint(value / constant(step.scale, "float32", isa))
    low, high = step.low - step.zero_point, step.high - step.zero_point
    return T.min(T.max(rounded, constant(low, "float32", isa)), constant(high, "float32", isa))


def uniform_code(value: Expr, step: UniformStep, isa: Isa) -> Expr:
    """The code that a uniform quantizer stores, an int32 vector."""
    steps = T.cast(uniform_steps(value, step, isa), vector("int32", isa))
    return steps + constant(step.zero_point + step.bias, "int32", isa)


def store_levels(
    output: Any, form: Format, stored: Sequence[float], above: Sequence[Expr], base: Expr, block: Expr, isa: Isa
) -> None:
    """Stores what a quantizer gives for one vector of channels of a pixel.

    Args:
        output: buffer.
        form: its format.
        stored: for each level, see `LevelQuantizer`.
        above: conditions ``level > l``, each implies those before it.
        base: first element of the pixel.
        block: vector index along the channels.
        isa: instruction set.
    """
    if form.kind == "bits":
        _store_planes(output, form, [int(code) for code in stored], above, base, block, isa)
        return
    dtype = "float32" if form.kind == "f32" else "int32"
    value = constant(stored[0], dtype, isa)
    for condition, level in zip(above, stored[1:], strict=True):
        value = T.Select(condition, constant(level, dtype, isa), value)
    result = value if form.kind == "f32" else isa.to_bytes(T.bind(value))
    store(output, result, base + block * isa.lanes, isa)


def _store_planes(
    output: Any, form: Format, codes: Sequence[int], above: Sequence[Expr], base: Expr, block: Expr, isa: Isa
) -> None:
    """Bit planes of the codes: plane by plane the XOR of the conditions at which its bit changes."""
    masks = [T.bind(isa.movemask(condition)) for condition in above]
    word = f"uint{isa.lanes}"
    every = (1 << isa.lanes) - 1
    for plane in range(form.planes):
        if plane == form.planes - form.ones_plane:
            mask = getattr(T, word)(every)
        else:
            mask = getattr(T, word)(-(codes[0] >> plane & 1) & every)
            for level, condition in enumerate(masks):
                if (codes[level] ^ codes[level + 1]) >> plane & 1:
                    mask = mask ^ condition
        if form.padded_channels != form.channels:
            mask = mask & _valid_lanes(form, block, isa)
        index = base + plane * (form.padded_channels // 8) + block * (isa.lanes // 8)
        count = isa.lanes // 8
        if count == 1:
            T.buffer_store(output, mask, [index])
        else:
            T.buffer_store(output, T.reinterpret(f"uint8x{count}", mask), [T.ramp(index, 1, count)])


def _valid_lanes(form: Format, block: Expr, isa: Isa) -> Expr:
    """Bits of the lanes that hold channels: the tail of the last word stays zero, popcounts rely on it."""
    lanes = isa.lanes
    rest = T.min(T.max(form.channels - block * lanes, 0), lanes)
    return T.cast(T.shift_left(T.int64(1), T.cast(rest, "int64")) - T.int64(1), f"uint{lanes}")
