"""From the checked ONNX graph to a flow: one rule per operator.

The rules rely on `lqcompile.graph.check`, and refuse only what depends on how a value is stored.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx_ir

from lqcompile.graph import layers
from lqcompile.graph.builder import FlowBuilder, View
from lqcompile.graph.contract import read_quantizer
from lqcompile.graph.flow import Add, Flow, Kind, Multiply
from lqcompile.graph.nodes import constant, float_attribute, float_parameter, unsupported
from lqcompile.graph.padding import counts_padding, read_padded_geometry
from lqcompile.graph.plan import Affine, AveragePool, Clamp, Concat, HardSwish, Leaky, MaxPool, Softmax
from lqcompile.graph.qdq import read_uniform_quantizer
from lqcompile.graph.supported import pool_kernel

Float64Array = npt.NDArray[np.float64]

HARD_SIGMOID_ALPHA = float(np.float32(0.2))
"""Default of ONNX."""


def to_flow(model: onnx_ir.Model) -> Flow:
    """The flow of a checked model.

    Raises:
        UnsupportedError: an operator asks for what the flow cannot say; most of it concerns flattened images.
    """
    builder = FlowBuilder(model.graph)
    for node in model.graph:
        # Constants and dequantized weights are read by the nodes that use them.
        if any(value is not None and constant(value) is None for value in node.inputs):
            RULES[node.op_type](builder, node)
    return builder.finish()


def _alias(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    builder.alias(node, builder.view(node))


def _quantize(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """LQQuantize and QuantizeLinear; the DequantizeLinear that follows the latter is an alias."""
    kind = read_uniform_quantizer(node) if node.op_type == "QuantizeLinear" else read_quantizer(node)
    _elementwise(builder, node, kind)


def _elementwise(builder: FlowBuilder, node: onnx_ir.Node, kind: Kind) -> None:
    view = builder.view(node)
    builder.emit(node, kind, (view,), view.stored)


def _relu(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    _elementwise(builder, node, Clamp(low=0.0, high=np.inf))


def _clip(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    bounds = [-np.inf, np.inf]
    for index in (1, 2):
        value = constant(node.inputs[index]) if index < len(node.inputs) else None
        if value is not None:
            bounds[index - 1] = float(value.astype(np.float64).reshape(()))
    _elementwise(builder, node, Clamp(low=bounds[0], high=bounds[1]))


def _leaky(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """LeakyRelu and PRelu."""
    view = builder.view(node)
    slope = np.float32(float_attribute(node, "alpha", 0.01))
    values = float_parameter(node, 1, "slope") if node.op_type == "PRelu" else slope
    _elementwise(builder, node, Leaky(slope=per_channel(node, np.asarray(values), view)))


def _hard_sigmoid(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """``min(max(alpha * x + beta, 0), 1)``."""
    view = builder.view(node)
    scale = np.full(view.stored[0], float_attribute(node, "alpha", HARD_SIGMOID_ALPHA), np.float64)
    shift = np.full(view.stored[0], float_attribute(node, "beta", 0.5), np.float64)
    line = builder.emit(node, Affine(scale=scale, shift=shift), (view,), view.stored, part="line")
    builder.emit(node, Clamp(low=0.0, high=1.0), (line,), view.stored)


def _hard_swish(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    _elementwise(builder, node, HardSwish(alpha=float(np.float32(1 / 6)), beta=0.5))


def _joined(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """Add or Mul of two computed values; Mul takes one number per channel on either side."""
    first, second = builder.view(node, 0), builder.view(node, 1)
    if node.op_type == "Mul" and _image(first) == (1, 1) != _image(second):
        first, second = second, first
    gated = node.op_type == "Mul" and _image(second) == (1, 1)
    if first.stored[0] != second.stored[0] or (_image(first) != _image(second) and not gated):
        raise unsupported(
            node,
            f"flattened images of {list(first.stored)} and {list(second.stored)}",
            "images of one shape",
            f"{node.op_type.lower()} in front of the flattening",
        )
    builder.emit(node, Add() if node.op_type == "Add" else Multiply(), (first, second), first.stored)


def _binary(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """Add or Mul of two values, or one of Add, Sub, Mul, Div with a constant."""
    constants = [index for index in (0, 1) if constant(node.inputs[index]) is not None]
    if not constants:
        _joined(builder, node)
        return
    view = builder.view(node, 1 - constants[0])
    values = per_channel(node, float_parameter(node, constants[0], "the constant"), view)
    ones, zeros = np.ones_like(values), np.zeros_like(values)
    maps = {
        "Add": (ones, values),
        "Sub": (ones, -values) if constants[0] == 1 else (-ones, values),
        "Mul": (values, zeros),
        "Div": (ones / np.where(values == 0, 1, values), zeros),
    }
    scale, shift = maps[node.op_type]
    builder.emit(node, Affine(scale=scale, shift=shift), (view,), view.stored)


def _batch_normalization(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """``(x - mean) * gamma / sqrt(var + epsilon) + beta --> x * scale + shift``, in float64."""
    view = builder.view(node)
    names = ("scale", "B", "input_mean", "input_var")
    arrays = [float_parameter(node, index, label) for index, label in enumerate(names, start=1)]
    gamma, beta, mean, variance = (per_channel(node, array, view, axis_last=False) for array in arrays)
    epsilon = node.attributes.get("epsilon")
    spread = variance + (1e-5 if epsilon is None else epsilon.as_float())
    if not (spread > 0).all():
        raise unsupported(
            node, f"a variance of {float(spread.min()):g}", "positive ones", "look for a diverged training run"
        )
    scale = gamma / np.sqrt(spread)
    builder.emit(node, Affine(scale=scale, shift=beta - mean * scale), (view,), view.stored)


def per_channel(
    node: onnx_ir.Node, values: npt.NDArray[np.float32], view: View, *, axis_last: bool = True
) -> Float64Array:
    """A constant as one number per stored channel.

    Args:
        node: that reads it.
        values: a scalar or one number per channel of the ONNX graph, in any broadcastable shape.
        view: the other input.
        axis_last: broadcast as ONNX does, from the right; else the one axis is the channels.

    Returns:
        float64[C].

    Raises:
        UnsupportedError: the view is a flattened image and the number varies inside one of its channels.
    """
    array = values.astype(np.float64)
    if not axis_last:
        array = array.reshape(-1, *([1] * (len(view.shape) - 1)))
    full = np.broadcast_to(array, (1, *view.shape)).reshape(view.stored[0], -1)
    if (full != full[:, :1]).any():
        raise unsupported(
            node,
            f"one number per element of a flattened image {list(view.stored)}",
            "one per channel",
            "move it in front of the flattening",
        )
    return np.ascontiguousarray(full[:, 0])


def _image(view: View) -> tuple[int, ...]:
    """Rows and columns as stored; a vector is an image of 1 x 1."""
    return view.stored[1:] or (1, 1)


def _pooled_view(builder: FlowBuilder, node: onnx_ir.Node) -> View:
    view = builder.view(node)
    if view.stored != view.shape:
        raise unsupported(
            node, f"an image that is stored as {list(view.stored)}", str(list(view.shape)), "pool before reshaping"
        )
    return view


def _max_pool(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    view = _pooled_view(builder, node)
    geometry = read_padded_geometry(node, pool_kernel(node))
    kind = MaxPool(kernel=geometry.kernel, strides=geometry.strides, pads=geometry.pads)
    builder.emit(node, kind, (view,), (view.shape[0], *geometry.output_size(*view.shape[1:])))


def _average_pool(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    view = _pooled_view(builder, node)
    geometry = read_padded_geometry(node, pool_kernel(node))
    kind = AveragePool(
        kernel=geometry.kernel,
        strides=geometry.strides,
        pads=geometry.pads,
        count_include_pad=counts_padding(node, geometry.kernel),
    )
    builder.emit(node, kind, (view,), (view.shape[0], *geometry.output_size(*view.shape[1:])))


def _global_average_pool(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """GlobalAveragePool, and ReduceMean over the image."""
    view = _pooled_view(builder, node)
    _, height, width = view.shape
    kind = AveragePool(kernel=(height, width), strides=(1, 1), pads=(0, 0, 0, 0))
    builder.emit(node, kind, (view,), (view.shape[0], 1, 1))


def _concat(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """Concatenation of channels; of flattened images as well, where they have the same size."""
    views = tuple(builder.view(node, index) for index in range(len(node.inputs)))
    if len({view.stored[1:] for view in views}) > 1:
        raise unsupported(
            node,
            f"flattened images of {' and '.join(str(list(view.stored)) for view in views)}",
            "images of one size",
            "concatenate in front of the flattening",
        )
    channels = sum(view.stored[0] for view in views)
    builder.emit(node, Concat(), views, (channels, *views[0].stored[1:]))


def _softmax(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    view = builder.view(node)
    if _image(view) != (1, 1):
        raise unsupported(
            node, f"an input stored as {list(view.stored)}", "one number per channel", "leave the softmax to the caller"
        )
    builder.emit(node, Softmax(), (view,), view.stored)


RULES: dict[str, Callable[[FlowBuilder, onnx_ir.Node], None]] = {
    "Add": _binary,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": layers.convolution,
    "DequantizeLinear": _alias,
    "Div": _binary,
    "Dropout": _alias,
    "Flatten": _alias,
    "Gemm": layers.gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _alias,
    "LeakyRelu": _leaky,
    "LQConv": layers.low_bit,
    "LQLinear": layers.low_bit,
    "LQQuantize": _quantize,
    "MatMul": layers.matmul,
    "MaxPool": _max_pool,
    "Mul": _binary,
    "PRelu": _leaky,
    "QuantizeLinear": _quantize,
    "ReduceMean": _global_average_pool,
    "Relu": _relu,
    "Reshape": _alias,
    "Softmax": _softmax,
    "Squeeze": _alias,
    "Sub": _binary,
    "Unsqueeze": _alias,
}
"""Rule of each operator, of both domains; `Constant` needs none."""
