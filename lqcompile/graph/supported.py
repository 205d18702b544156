"""The standard operators that lqcompile compiles, and what of each.

`SUPPORTED` maps an operator to the check of its nodes. The graph has passed ONNX's own checker and shape inference
before, and dimension 0 of every computed value is the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import onnx_ir

from lqcompile.graph.dense import check_conv, check_gemm, check_matmul
from lqcompile.graph.nodes import (
    Shape,
    check_rank,
    constant,
    float_attribute,
    float_parameter,
    int_attribute,
    parameter,
    sample_shape,
    unsupported,
)
from lqcompile.graph.padding import read_padded_geometry
from lqcompile.graph.qdq import check_dequantize, check_quantize


def check_operator(node: onnx_ir.Node) -> None:
    """Check that a node of the standard domain is an operator that is compiled at all.

    Raises:
        UnsupportedError: it is not.
    """
    if node.op_type not in SUPPORTED:
        known = ", ".join(sorted(SUPPORTED))
        raise unsupported(node, "an operator that is not supported", f"one of {known}", "replace it")


def check_standard(node: onnx_ir.Node) -> None:
    """Check what a node of a supported operator asks for.

    Raises:
        ModelError: a parameter is computed or not finite.
        UnsupportedError: the node asks for something that is not compiled.
    """
    SUPPORTED[node.op_type](node)


def _binary(node: onnx_ir.Node) -> None:
    constants = [index for index, value in enumerate(node.inputs) if constant(value) is not None]
    if not constants:
        _check_branches(node)
        return
    if constants == [0, 1] or (node.op_type == "Div" and constants == [0]):
        found = "two constants" if len(constants) == 2 else "a constant numerator"
        raise unsupported(node, found, "a computed value first", "simplify the model before the export")
    values = float_parameter(node, constants[0], "the constant")
    _check_per_channel(node, values.shape, 1 - constants[0])
    if node.op_type == "Div" and not values.all():
        raise unsupported(node, "a division by 0", "other divisors", "look for a diverged training run")


def _check_branches(node: onnx_ir.Node) -> None:
    """Two computed inputs: sums of equal shapes, products also of images with one number per channel."""
    if node.op_type not in ("Add", "Mul"):
        raise unsupported(node, "two computed inputs", "one of them constant", "only Add and Mul join two branches")
    first, second = (sample_shape(value) for value in node.inputs)
    gates = [shape[:1] + (1,) * (len(shape) - 1) for shape in (first, second)]
    if first != second and not (node.op_type == "Mul" and (first == gates[1] or second == gates[0])):
        also = " or one number per channel, [C, 1, 1]" if node.op_type == "Mul" else ""
        found = f"samples of {list(first)} and {list(second)}"
        raise unsupported(node, found, f"equal shapes{also}", "expand the smaller one before")


def _check_per_channel(node: onnx_ir.Node, values: Shape, index: int) -> None:
    """A constant has one entry, or [C] in the place of the channels; a lower rank counts from the right.

    Args:
        node: that reads it beside its input `index`.
        values: shape of the constant.
        index: of the computed input.
    """
    result = sample_shape(node.outputs[0])
    shape = (1,) * (len(result) + 1 - len(values)) + values
    per_channel = (1, *result[:1], *(1,) * (len(result) - 1))
    if shape not in ((1,) * (len(result) + 1), per_channel) or sample_shape(node.inputs[index]) != result:
        raise unsupported(
            node, f"a constant of shape {list(values)}", "a scalar or one per channel", "simplify the model"
        )


def _prelu(node: onnx_ir.Node) -> None:
    _check_per_channel(node, float_parameter(node, 1, "slope").shape, 0)


def _line(node: onnx_ir.Node) -> None:
    """LeakyRelu and HardSigmoid: numbers as attributes."""
    for label in ("alpha", "beta"):
        if not math.isfinite(float_attribute(node, label, 0.0)):
            found = f"{label}={float_attribute(node, label, 0.0):g}"
            raise unsupported(node, found, "a finite number", "look for a diverged training run")


def _clip(node: onnx_ir.Node) -> None:
    for index, label in ((1, "min"), (2, "max")):
        if index < len(node.inputs) and node.inputs[index] is not None and parameter(node, index, label).size != 1:
            raise unsupported(node, f"{label} with several entries", "a scalar", "clip with one bound")


def _pool(node: onnx_ir.Node) -> None:
    check_rank(node, 4)
    _check_single_output(node)
    if "dilations" in node.attributes and set(node.attributes["dilations"].as_ints()) != {1}:
        raise unsupported(node, "dilations", "none", "pool without dilation")
    geometry = read_padded_geometry(node, pool_kernel(node))
    size, inferred = geometry.output_size(*sample_shape(node.inputs[0])[1:]), sample_shape(node.outputs[0])[1:]
    if inferred != size:
        # Before opset 22 the shape inference of ONNX counts windows that start behind the image; ONNX Runtime does not.
        raise unsupported(
            node, f"images of {list(inferred)} as output", str(list(size)), "export with opset 22 or ceil_mode=False"
        )


def pool_kernel(node: onnx_ir.Node) -> tuple[int, int]:
    """Window (kh, kw) of a pooling node."""
    kernel = node.attributes["kernel_shape"].as_ints()
    return kernel[0], kernel[1]


def _check_single_output(node: onnx_ir.Node) -> None:
    for extra in node.outputs[1:]:
        if extra.uses() or extra.is_graph_output():
            raise unsupported(node, f"its output '{extra.name}' in use", "only the first output", "drop what reads it")


def _global_pool(node: onnx_ir.Node) -> None:
    check_rank(node, 4)


def _batch_normalization(node: onnx_ir.Node) -> None:
    if int_attribute(node, "training_mode", 0):
        raise unsupported(node, "training_mode=1", "0", "call model.eval() before the export")
    _check_single_output(node)
    for index, label in enumerate(("scale", "B", "input_mean", "input_var"), start=1):
        float_parameter(node, index, label)


def _dropout(node: onnx_ir.Node) -> None:
    if len(node.inputs) > 2 and node.inputs[2] is not None and parameter(node, 2, "training_mode").any():
        raise unsupported(node, "training_mode=1", "0", "call model.eval() before the export")
    _check_single_output(node)


def _reshape(node: onnx_ir.Node) -> None:
    """Flatten, Reshape, Squeeze, Unsqueeze: of samples, to a vector or by adding and removing axes of size 1."""
    before, after = sample_shape(node.inputs[0]), sample_shape(node.outputs[0])
    vector = len(after) == 1 and math.prod(before) == after[0]
    squeezed = tuple(n for n in before if n != 1) == tuple(n for n in after if n != 1) and before[:1] == after[:1]
    batch = [
        None if value is None or value.shape is None else value.shape[0]
        for value in (*node.inputs[:1], node.outputs[0])
    ]
    same_batch = batch[0] == batch[1] or not all(isinstance(size, int) for size in batch)
    if not (vector or squeezed) or not same_batch:
        raise unsupported(
            node,
            f"samples of {list(before)} turned into {list(after)}",
            "a vector per sample, or axes of size 1 added or removed after the channels",
            "flatten from axis 1 on",
        )


def _spatial_mean(node: onnx_ir.Node) -> None:
    check_rank(node, 4)
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = [int(axis) for axis in parameter(node, 1, "axes").reshape(-1)]
    else:
        axes = list(node.attributes["axes"].as_ints()) if "axes" in node.attributes else [0, 1, 2, 3]
    if sorted(axis % 4 for axis in axes) != [2, 3]:
        raise unsupported(node, f"axes {axes}", "the two of the image, [2, 3]", "use a global average pool")


def _axis_one(node: onnx_ir.Node) -> None:
    rank = len(sample_shape(node.inputs[0])) + 1
    axis = int_attribute(node, "axis", -1)
    if axis % rank != 1:
        raise unsupported(node, f"axis={axis} of rank {rank}", "the channels, axis 1", "move the channels there")


def _elementwise(node: onnx_ir.Node) -> None:
    """Constant, HardSwish, Identity and Relu have nothing to check."""


SUPPORTED: dict[str, Callable[[onnx_ir.Node], None]] = {
    "Add": _binary,
    "AveragePool": _pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _axis_one,
    "Constant": _elementwise,
    "Conv": check_conv,
    "DequantizeLinear": check_dequantize,
    "Div": _binary,
    "Dropout": _dropout,
    "Flatten": _reshape,
    "Gemm": check_gemm,
    "GlobalAveragePool": _global_pool,
    "HardSigmoid": _line,
    "HardSwish": _elementwise,
    "Identity": _elementwise,
    "LeakyRelu": _line,
    "MatMul": check_matmul,
    "MaxPool": _pool,
    "Mul": _binary,
    "PRelu": _prelu,
    "QuantizeLinear": check_quantize,
    "ReduceMean": _spatial_mean,
    "Relu": _elementwise,
    "Reshape": _reshape,
    "Softmax": _axis_one,
    "Squeeze": _reshape,
    "Sub": _binary,
    "Unsqueeze": _reshape,
}
"""Operators of the standard domain, each with the check of its nodes."""
