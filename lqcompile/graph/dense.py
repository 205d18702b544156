"""Convolutions and linear layers of the standard domain: reading their weights and checking what they ask for."""

from __future__ import annotations

import onnx_ir

from lqcompile.graph.contract import read_geometry
from lqcompile.graph.nodes import (
    Shape,
    check_explicit_pads,
    check_rank,
    constant,
    float_parameter,
    int_attribute,
    sample_shape,
    unsupported,
    violation,
)
from lqcompile.graph.qdq import read_int8_weights
from lqcompile.graph.specs import FloatWeights, Int8Weights


def read_dense_weights(node: onnx_ir.Node, index: int = 1) -> FloatWeights | Int8Weights:
    """Weights of a Conv, Gemm or MatMul as they are stored: constant float32, or int8 through DequantizeLinear.

    Raises:
        ModelError: they are computed, or have NaN or infinite entries.
        UnsupportedError: they have another type.
    """
    value = node.inputs[index]
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear" and constant(producer.inputs[0]) is not None:
        return read_int8_weights(producer)
    return FloatWeights(values=float_parameter(node, index, "weight"))


def check_conv(node: onnx_ir.Node) -> None:
    """Check a Conv node.

    Raises:
        ModelError: a parameter is computed or not finite.
        UnsupportedError: the node asks for something that is not compiled.
    """
    check_rank(node, 4)
    check_explicit_pads(node)
    weights = read_dense_weights(node)
    kernel = weights.shape[2:]
    attribute = node.attributes.get("kernel_shape")
    if len(kernel) != 2 or (attribute is not None and tuple(attribute.as_ints()) != kernel):
        declared = "" if attribute is None else f" with kernel_shape={list(attribute.as_ints())}"
        raise violation(node, f"weights are {list(weights.shape)}{declared}, expected [O,C/group,kh,kw]")
    geometry = read_geometry(node, (kernel[0], kernel[1]))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        float_parameter(node, 2, "bias")
    check_channels(node, weights.shape, geometry.group)


def check_channels(node: onnx_ir.Node, weight_shape: Shape, group: int) -> None:
    """Check that the channels of a convolution fit its weights and groups.

    Raises:
        UnsupportedError: they do not; ONNX's own shape inference does not look.
    """
    channels = sample_shape(node.inputs[0])[0]
    if channels != weight_shape[1] * group or weight_shape[0] % group:
        raise unsupported(
            node,
            f"{channels} input channels and group={group} for weights {list(weight_shape)}",
            f"{weight_shape[1] * group} input channels and output channels in equal groups",
            "export the model again",
        )


def check_gemm(node: onnx_ir.Node) -> None:
    """Check a Gemm node.

    Raises:
        ModelError: a parameter is computed or not finite.
        UnsupportedError: the node asks for something that is not compiled.
    """
    check_rank(node, 2)
    for label, expected in (("alpha", 1.0), ("beta", 1.0)):
        attribute = node.attributes.get(label)
        if attribute is not None and attribute.as_float() != expected:
            raise unsupported(node, f"{label}={attribute.as_float():g}", f"{expected:g}", "fold it into the weights")
    if int_attribute(node, "transA", 0):
        raise unsupported(node, "transA=1", "0", "export a linear layer")
    weights = read_dense_weights(node)
    if isinstance(weights, Int8Weights) and not int_attribute(node, "transB", 0):
        raise unsupported(node, "int8 weights with transB=0", "transB=1", "store the weights as [O,C]")
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = float_parameter(node, 2, "bias")
        if bias.size not in (1, sample_shape(node.outputs[0])[0]) or bias.shape[-1:] not in ((), (bias.size,)):
            raise unsupported(node, f"a bias of shape {list(bias.shape)}", "one per output", "add it separately")


def check_matmul(node: onnx_ir.Node) -> None:
    """Check a MatMul node.

    Raises:
        ModelError: a parameter is computed or not finite.
        UnsupportedError: the node asks for something that is not compiled.
    """
    check_rank(node, 2)
    weights = read_dense_weights(node)
    if isinstance(weights, Int8Weights):
        raise unsupported(node, "int8 weights", "float32", "use Gemm with transB=1")
    if len(weights.shape) != 2:
        raise unsupported(node, f"weights of shape {list(weights.shape)}", "[C,O]", "export a linear layer")
