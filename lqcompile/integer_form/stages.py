"""Float64 stages and average pooling of the integer form, in standard ONNX operators."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from lqcompile.graph.plan import (
    AddValue,
    Affine,
    AveragePool,
    Clamp,
    Geometry,
    HardSwish,
    Leaky,
    MaxPool,
    MultiplyValue,
    Shape,
    Stage,
)
from lqcompile.integer_form.writer import GraphWriter
from lqcompile.reference.execute import pool_counts


def write_stages(writer: GraphWriter, x: str, stages: Sequence[Stage], residuals: Mapping[str, str], rank: int) -> str:
    """Write stages behind a float64 tensor.

    Args:
        writer: to add nodes to.
        x: the tensor, of `rank` dimensions per sample (3 or 1).
        stages: in order.
        residuals: float32 tensors by value name, of the same rank.
        rank: dimensions of one sample.

    Returns:
        The last tensor, float64.
    """
    along = (-1, *([1] * (rank - 1)))
    for stage in stages:
        if isinstance(stage, Affine):
            x = writer.node("Mul", x, writer.constant(stage.scale.reshape(along)))
            x = writer.node("Add", x, writer.constant(stage.shift.reshape(along)))
        elif isinstance(stage, Clamp):
            x = writer.node("Max", x, writer.constant(np.float64(stage.low)))
            x = writer.node("Min", x, writer.constant(np.float64(stage.high)))
        elif isinstance(stage, Leaky):
            zero = writer.constant(np.float64(0))
            below = writer.node("Mul", writer.node("Min", x, zero), writer.constant(stage.slope.reshape(along)))
            x = writer.node("Add", writer.node("Max", x, zero), below)
        elif isinstance(stage, HardSwish):
            line = writer.node("Mul", x, writer.constant(np.float64(stage.alpha)))
            line = writer.node("Add", line, writer.constant(np.float64(stage.beta)))
            line = writer.node("Max", line, writer.constant(np.float64(0)))
            x = writer.node("Mul", x, writer.node("Min", line, writer.constant(np.float64(1))))
        elif isinstance(stage, MaxPool):
            x = writer.node(
                "MaxPool",
                x,
                kernel_shape=list(stage.kernel),
                strides=list(stage.strides),
                pads=list(stage.pads),
            )
        elif isinstance(stage, AddValue):
            x = writer.node("Add", x, writer.cast(residuals[stage.name], np.float64))
        elif isinstance(stage, MultiplyValue):
            x = writer.node("Mul", x, writer.cast(residuals[stage.name], np.float64))
    return x


def write_average_pool(writer: GraphWriter, x: str, pool: AveragePool, in_shape: Shape) -> str:
    """Sum the float64 tensor `x` over windows row by row, then divide; ONNX Runtime has no float64 AveragePool."""
    top, left, bottom, right = pool.pads
    pads = writer.constant(np.array([0, 0, top, left, 0, 0, bottom, right], dtype=np.int64))
    padded = writer.node("Pad", x, pads)
    size = (in_shape[1], in_shape[2])
    rows = Geometry(kernel=pool.kernel, strides=pool.strides, pads=pool.pads).output_size(*size)
    axes, steps = writer.constant(np.array([2, 3])), writer.constant(np.array(pool.strides))
    total = ""
    for starts in itertools.product(range(pool.kernel[0]), range(pool.kernel[1])):
        ends = [s + (n - 1) * step + 1 for s, n, step in zip(starts, rows, pool.strides, strict=True)]
        part = writer.node(
            "Slice", padded, writer.constant(np.array(starts)), writer.constant(np.array(ends)), axes, steps
        )
        total = writer.node("Add", total, part) if total else part
    return writer.node("Div", total, writer.constant(pool_counts(pool, size)))
