"""Convolutions and linear layers of the standard domain: reading their weights and checking what they ask for."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir

from lqcompile.graph.nodes import (
    Shape,
    check_rank,
    constant,
    float_attribute,
    float_parameter,
    int_attribute,
    sample_shape,
    unsupported,
    violation,
)
from lqcompile.graph.padding import read_padded_geometry
from lqcompile.graph.qdq import read_int8_weights
from lqcompile.graph.specs import Float32Array, FloatWeights, Int8Weights


def read_dense_weights(node: onnx_ir.Node) -> FloatWeights | Int8Weights:
    """Weights of a Conv, Gemm or MatMul, output channels first: constant float32, or int8 through DequantizeLinear.

    Raises:
        ModelError: they are computed, or have NaN or infinite entries.
        UnsupportedError: they have another type, or their scales are not those of the output channels.
    """
    turned = node.op_type == "MatMul" or (node.op_type == "Gemm" and not int_attribute(node, "transB", 0))
    value = node.inputs[1]
    producer = value.producer() if value is not None else None
    if producer is not None and producer.op_type == "DequantizeLinear" and constant(producer.inputs[0]) is not None:
        return read_int8_weights(producer, axis=1 if turned else 0)
    weights = float_parameter(node, 1, "weight")
    return FloatWeights(values=weights.T if turned else weights)


def read_dense_bias(node: onnx_ir.Node) -> Float32Array:
    """Bias of a Conv or Gemm: float32[O] or float32[1], 0 where it has none; int32 ones come dequantized.

    Raises:
        ModelError: it is computed, or has NaN or infinite entries.
        UnsupportedError: it has another type.
    """
    bias = _bias(node)
    return np.zeros(1, np.float32) if bias is None else bias.reshape(-1)


def _bias(node: onnx_ir.Node) -> Float32Array | None:
    """The bias in its own shape; None where the node has none."""
    return float_parameter(node, 2, "bias") if len(node.inputs) > 2 and node.inputs[2] is not None else None


def check_conv(node: onnx_ir.Node) -> None:
    """Check a Conv node.

    Raises:
        ModelError: a parameter is computed or not finite.
        UnsupportedError: the node asks for something that is not compiled.
    """
    check_rank(node, 4)
    weights = read_dense_weights(node)
    kernel = weights.shape[2:]
    attribute = node.attributes.get("kernel_shape")
    if len(kernel) != 2 or (attribute is not None and tuple(attribute.as_ints()) != kernel):
        declared = "" if attribute is None else f" with kernel_shape={list(attribute.as_ints())}"
        raise violation(node, f"weights are {list(weights.shape)}{declared}, expected [O,C/group,kh,kw]")
    geometry = read_padded_geometry(node, (kernel[0], kernel[1]))
    bias = _bias(node)
    if bias is not None and bias.shape != weights.shape[:1]:
        raise unsupported(
            node, f"a bias of shape {list(bias.shape)}", f"[{weights.shape[0]}]", "export the model again"
        )
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
    for label in ("alpha", "beta"):
        factor = float_attribute(node, label, 1.0)
        if not math.isfinite(factor):
            raise unsupported(node, f"{label}={factor:g}", "a finite number", "look for a diverged training run")
    if int_attribute(node, "transA", 0):
        raise unsupported(node, "transA=1", "0", "export a linear layer")
    _check_matrix(node)
    bias = _bias(node)
    if bias is None:
        return
    if bias.size not in (1, sample_shape(node.outputs[0])[0]) or bias.shape[-1:] not in ((), (bias.size,)):
        raise unsupported(node, f"a bias of shape {list(bias.shape)}", "one per output", "add it separately")


def check_matmul(node: onnx_ir.Node) -> None:
    """Check a MatMul node.

    Raises:
        ModelError: a parameter is computed or not finite.
        UnsupportedError: the node asks for something that is not compiled.
    """
    check_rank(node, 2)
    _check_matrix(node)


def _check_matrix(node: onnx_ir.Node) -> None:
    value = node.inputs[1]
    if value is None or value.shape is None or len(value.shape) != 2:
        shape = [] if value is None or value.shape is None else list(value.shape)
        raise unsupported(node, f"weights of shape {shape}", "[C,O]", "export a linear layer")
    read_dense_weights(node)
