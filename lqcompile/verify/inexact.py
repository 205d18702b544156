"""Regions that are not exact, against the integer form: a float contraction or a Softmax, whose rounding is free."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import (
    Affine,
    Contraction,
    HardSwish,
    Leaky,
    MaxPool,
    MultiplyValue,
    Output,
    Plan,
    Region,
    Softmax,
    Stage,
    is_exact,
)
from lqcompile.reference.epilogue import apply_stages, as_factor
from lqcompile.reference.sums import convolve
from lqcompile.reference.values import dequantize, held_quantizer
from lqcompile.verify import rounding
from lqcompile.verify.sessions import Array

Float64 = npt.NDArray[np.float64]


def is_exact_region(plan: Plan, region: Region) -> bool:
    """Whether every backend computes the same bits from the same input."""
    if isinstance(region.operation, Contraction):
        return is_exact(region.operation, held_quantizer(plan.values[region.inputs[0]]))
    return not isinstance(region.operation, Softmax)


def float_bound(plan: Plan, region: Region, output: Output, values: Mapping[str, Array]) -> tuple[Float64, Float64]:
    """What an inexact region computes, and how far apart two implementations may be.

    Args:
        plan: that holds the region.
        region: a float contraction or a Softmax.
        output: one of its outputs.
        values: what it reads, in their logical encoding.

    Returns:
        The value before the output's quantizer in float64, and twice the error bound of one implementation, both of the
        shape of the output.
    """
    reals = {}
    for name in (*region.inputs, *region.residuals):
        quantizer = held_quantizer(plan.values[name])
        reals[name] = values[name] if quantizer is None else dequantize(values[name], quantizer)
    x = reals[region.inputs[0]]
    if isinstance(region.operation, Contraction):
        x = x.reshape(-1, *region.operation.in_shape)
        kernels = region.operation.weights.dequantize().astype(np.float64)
        kernels = kernels.reshape(len(kernels), -1, *region.operation.geometry.kernel)
        y = convolve(x, kernels, region.operation.geometry).astype(np.float64)
        error = rounding.contraction_error(region.operation, x, np.zeros(()))
    else:
        shifted = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
        y = shifted / shifted.sum(axis=1, keepdims=True)
        error = np.full(y.shape, rounding.SOFTMAX_ERROR)
    y, error = _staged(y, error, region.stages, reals)
    y, error = (array.reshape(-1, *region.stream_shape) for array in (y, error + rounding.U * np.abs(y)))
    y, error = _staged(y, error, output.stages, {})
    error = error + rounding.U * np.abs(y)
    return y.reshape(-1, *output.value.shape), 2 * error.reshape(-1, *output.value.shape)


def _staged(
    y: Float64, error: Float64, stages: tuple[Stage, ...], reals: Mapping[str, npt.NDArray[np.float32]]
) -> tuple[Float64, Float64]:
    """Stages in float64 add no error that counts: an affine map scales it, a maximum takes the worst."""
    for stage in stages:
        y = apply_stages(y, (stage,), reals)
        if isinstance(stage, Affine):
            error = error * np.abs(stage.scale).reshape(-1, *([1] * (error.ndim - 2)))
        elif isinstance(stage, Leaky):
            error = error * np.maximum(np.abs(stage.slope), 1).reshape(-1, *([1] * (error.ndim - 2)))
        elif isinstance(stage, HardSwish):
            error = error * rounding.steepest(stage)
        elif isinstance(stage, MultiplyValue):
            error = error * np.abs(as_factor(reals[stage.name], y.shape))
        elif isinstance(stage, MaxPool):
            error = apply_stages(error, (stage,), reals)
    return y, error
