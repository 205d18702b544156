"""Lowering of stages and quantizers to epilogue steps, shared by every kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import (
    AddValue,
    Affine,
    AnyQuantizer,
    Clamp,
    HardSwish,
    Leaky,
    MultiplyValue,
    Output,
    Stage,
    Value,
    is_monotone,
)
from lqcompile.graph.specs import Quantizer, UniformQuantizer
from lqcompile.lowering.parameters import evaluate_stages, per_channel, real_thresholds, scale_signs
from lqcompile.lowering.program import SumsKernel, Tensor
from lqcompile.schedules.epilogue import (
    AddStep,
    AffineStep,
    ClampStep,
    HardSwishStep,
    LeakyStep,
    LevelQuantizer,
    MultiplyStep,
    Step,
    Store,
    UniformStep,
)
from lqcompile.schedules.formats import Format, Kind

SIGNED_BIAS = 128
"""int8 codes are stored as unsigned bytes, 128 higher: byte dot products take an unsigned left factor."""


def make_steps(stages: Sequence[Stage], residuals: Sequence[Format] = ()) -> tuple[Step, ...]:
    """Epilogue steps of stages; `residuals` are the formats of what joins in, in order."""
    formats = iter(residuals)
    steps: list[Step] = []
    for stage in stages:
        if isinstance(stage, Affine):
            steps.append(AffineStep(scaled=bool((stage.scale != 1).any()), shifted=bool(stage.shift.any())))
        elif isinstance(stage, Clamp):
            steps.append(ClampStep(low=stage.low, high=stage.high))
        elif isinstance(stage, AddValue):
            steps.append(AddStep(format=next(formats)))
        elif isinstance(stage, MultiplyValue):
            steps.append(MultiplyStep(format=next(formats)))
        elif isinstance(stage, Leaky):
            steps.append(LeakyStep())
        elif isinstance(stage, HardSwish):
            steps.append(HardSwishStep(alpha=stage.alpha, beta=stage.beta))
        else:
            raise TypeError(f"stage {type(stage).__name__} is not an epilogue step")
    return tuple(steps)


def step_parameters(stages: Sequence[Stage], channels: int) -> list[npt.NDArray[Any]]:
    """Scale and shift of affine stages, without scales of 1 and shifts of 0, and slopes: float64[channels] each."""
    arrays: list[npt.NDArray[Any]] = []
    for stage in stages:
        if isinstance(stage, Affine):
            arrays += [per_channel(stage.scale, channels, "float64")] if (stage.scale != 1).any() else []
            arrays += [per_channel(stage.shift, channels, "float64")] if stage.shift.any() else []
        elif isinstance(stage, Leaky):
            arrays.append(per_channel(stage.slope, channels, "float64"))
    return arrays


def zero_code(quantizer: UniformQuantizer, kind: Kind = "u8") -> int:
    """The stored code that stands for 0."""
    if kind == "i16":
        return 0
    return quantizer.zero_point + (SIGNED_BIAS if quantizer.dtype == "int8" else 0)


def level_integers(quantizer: Quantizer) -> npt.NDArray[np.int64]:
    """Integer of each level of an integer basis, without the scale: int64[2^K]."""
    bits = (quantizer.codes[:, None] >> np.arange(quantizer.bits)) & 1
    total: npt.NDArray[np.int64] = (bits * quantizer.basis.astype(np.int64)).sum(axis=1)
    return total


def make_quantizer(quantizer: AnyQuantizer, kind: Kind) -> LevelQuantizer | UniformStep:
    """How a quantizer's output is stored in a format of `kind`; ``f32`` holds decoded levels."""
    if isinstance(quantizer, UniformQuantizer):
        low, high = (0, 255) if quantizer.dtype == "uint8" else (-128, 127)
        return UniformStep(
            scale=float(quantizer.scale),
            zero_point=quantizer.zero_point,
            low=low,
            high=high,
            bias=zero_code(quantizer, kind) - quantizer.zero_point,
            decode=kind == "f32",
        )
    thresholds = tuple(float(value) for value in quantizer.thresholds)
    if kind == "bits":
        stored = tuple(float(code) for code in quantizer.codes)
    elif kind == "u8":
        stored = tuple(float(value) for value in level_integers(quantizer))
    else:
        stored = tuple(float(value) for value in quantizer.levels)
    return LevelQuantizer(thresholds=thresholds, stored=stored)


def make_store(output: Output, tensor: Tensor) -> Store:
    """The epilogue store of an output into a physical tensor."""
    if tensor.form is None:
        raise TypeError("stores need a format")
    quantizer = output.value.quantizer
    kind = tensor.form.kind
    return Store(
        format=tensor.form,
        steps=make_steps(output.stages),
        quantizer=make_quantizer(quantizer, kind) if quantizer is not None else None,
    )


def make_stream_store(output: Output, tensor: Tensor, channels: int) -> tuple[Store, list[npt.NDArray[Any]]]:
    """The store of an output, from the stream, and its parameters for `channels` physical channels.

    Monotone maps before a level quantizer become thresholds of each channel on the stream itself: float32 numbers that
    give the same levels as the chain in float64, found on the chain with its roundings.
    """
    store, quantizer = make_store(output, tensor), output.value.quantizer
    if not output.stages or not isinstance(quantizer, Quantizer) or not is_monotone(output.stages):
        return store, step_parameters(output.stages, channels)
    count = store.format.channels
    signs = scale_signs(output.stages)
    falling = signs if signs is not None else np.zeros(count, np.bool_)
    turn = np.where(falling, -1.0, 1.0)

    def value_of(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):
            return evaluate_stages(values * turn[:, None], output.stages)

    bound = np.full(count, np.finfo(np.float32).max, np.float64)
    exact = real_thresholds(value_of, quantizer.thresholds, bound)
    below = exact.astype(np.float32)
    below = np.where(below > exact, np.nextafter(below, np.float32(-np.inf)), below)
    rows = np.full((len(quantizer.thresholds), channels), np.inf, np.float32)
    rows[:, :count] = below
    arrays: list[npt.NDArray[Any]] = [rows.ravel()]
    if falling.any():
        arrays.append(per_channel(turn, channels, "float32", 1.0))
    return replace(store, steps=(), per_channel=True, complement=bool(falling.any())), arrays


def make_format(value: Value, kind: Kind, halo: tuple[int, int, int, int], lanes: int = 16) -> Format:
    """The format of a value for a kind of kernel, with pixels of whole vectors of up to 16 `lanes` or of more."""
    channels, height, width = (*value.shape, 1, 1)[:3]
    quantizer = value.quantizer
    planes, ones, pad = 1, False, 0
    if kind == "bits":
        if not isinstance(quantizer, Quantizer):
            raise TypeError("bit planes need a low-bit quantizer")
        ones = float(quantizer.offset) != 0.0
        planes = quantizer.bits + ones
    if kind == "u8" and isinstance(quantizer, UniformQuantizer):
        pad = zero_code(quantizer)
    return Format(
        kind=kind,
        channels=channels,
        height=height,
        width=width,
        halo=halo,
        align=32 if kind == "bits" else max(16, lanes),
        planes=planes,
        ones_plane=ones,
        pad=pad,
    )


def describe(tensor: Tensor, value: Value, offset: int) -> dict[str, Any]:
    """The manifest entry of a physical tensor that holds a value, as `lqcompile.layout` reads it."""
    form = tensor.form
    if form is None:
        raise TypeError("the manifest describes tensors with a format")
    entry: dict[str, Any] = {
        "value": value.name,
        "offset": offset,
        "kind": form.kind,
        "shape": list(value.shape),
        "halo": list(form.halo),
        "channels": form.padded_channels,
        "planes": form.planes,
        "ones_plane": form.ones_plane,
        "pad": form.pad,
    }
    if isinstance(value.quantizer, UniformQuantizer):
        entry["code"] = {
            "bias": zero_code(value.quantizer, form.kind) - value.quantizer.zero_point,
            "dtype": value.quantizer.dtype,
            "scale": float(value.quantizer.scale),
            "zero_point": value.quantizer.zero_point,
        }
    elif value.quantizer is not None:
        entry["stored"] = list(make_quantizer(value.quantizer, form.kind).stored)
    entry["decoded"] = value.decoded
    return entry


def describe_sums(kernel: SumsKernel) -> dict[str, Any]:
    """The manifest entry of a kernel that stores integers, as `lqcompile.runtime.integers` reads it."""
    return {
        "region": kernel.region,
        "pairs": list(kernel.pairs),
        "bits": list(kernel.bits),
        "shape": list(kernel.shape),
        "channels": kernel.channels,
        "single": kernel.single,
        "elements": sum(tensor.size for tensor in kernel.step.outputs),
        "signs": kernel.signs.tolist(),
        "corrections": kernel.corrections.tolist(),
        "multipliers": [kernel.multipliers[0].tolist(), list(kernel.multipliers[1])] if kernel.multipliers else None,
    }
