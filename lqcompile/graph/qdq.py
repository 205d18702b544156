"""Reading 8-bit quantizers and weights from QuantizeLinear and DequantizeLinear; see docs/onnx-contract.md."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir

from lqcompile.graph.folding import along_axis, dequantized, quantized, read_scale, read_zero_point
from lqcompile.graph.nodes import constant, parameter, subject, unsupported, violation
from lqcompile.graph.specs import Int8Weights, UniformQuantizer


def read_uniform_quantizer(node: onnx_ir.Node) -> UniformQuantizer:
    """Quantizer of a QuantizeLinear node, or of the DequantizeLinear that follows one.

    Raises:
        ModelError: a parameter is computed, or not a positive finite scale.
        UnsupportedError: quantization per channel or to another type than 8 bits.
    """
    scale = read_scale(node)
    zero_point = read_zero_point(node)
    if scale.size != 1 or zero_point.size != 1:
        raise unsupported(node, f"{scale.size} scales", "one for the whole tensor", "quantize activations per tensor")
    dtype: Literal["uint8", "int8"] = "uint8" if zero_point.dtype == np.uint8 else "int8"
    return UniformQuantizer(
        name=str(node.name or node.outputs[0].name),
        scale=scale.reshape(-1)[0],
        zero_point=int(zero_point.reshape(-1)[0]),
        dtype=dtype,
    )


def read_int8_weights(node: onnx_ir.Node, axis: int = 0) -> Int8Weights:
    """Weights of a DequantizeLinear node whose input is constant.

    Args:
        node: the DequantizeLinear.
        axis: that of the output channels in the stored weights; [C, O] weights (axis 1) are turned.

    Raises:
        ModelError: a parameter is computed, or not a positive finite scale.
        UnsupportedError: weights that 8 bits do not hold once their zero point is subtracted, or scales that are
            neither per tensor nor per output channel.
    """
    codes = parameter(node, 0, "x")
    scale, zero_point = read_scale(node), read_zero_point(node)
    along = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    if scale.size != 1 and (along % max(codes.ndim, 1) != axis or scale.shape != codes.shape[axis : axis + 1]):
        raise unsupported(
            node,
            f"{list(scale.shape)} scales along axis {along} of {list(codes.shape)} weights",
            f"one per output channel, axis {axis}",
            f"quantize weights per tensor or along axis {axis}",
        )
    values = codes.astype(np.int16) - along_axis(node, zero_point, codes).astype(np.int16)
    if values.size and (values.min() < -128 or values.max() > 127):
        points = sorted(set(zero_point.reshape(-1).tolist()))
        found = f"{codes.dtype} weights of {values.min()}..{values.max()} around zero points {points}"
        raise unsupported(node, found, "-128..127", "quantize weights symmetrically, to int8 with zero point 0")
    rows = np.moveaxis(values, axis, 0).astype(np.int8)
    per_channel = np.broadcast_to(scale.reshape(-1), rows.shape[:1])
    return Int8Weights(values=rows, scale=per_channel.astype(np.float32))


def check_quantize(node: onnx_ir.Node) -> None:
    """Check a QuantizeLinear: of a constant, or 8 bits and read only by DequantizeLinear nodes of equal parameters.

    Raises:
        ModelError: a parameter violates the contract.
        UnsupportedError: its codes go anywhere else.
    """
    if constant(node.inputs[0]) is not None:
        quantized(node)
        return
    quantizer = read_uniform_quantizer(node)
    if node.outputs[0].is_graph_output():
        raise unsupported(
            node, "that its codes are a graph output", "only DequantizeLinear after it", "export in QDQ form"
        )
    for user in node.outputs[0].consumers():
        if user.op_type != "DequantizeLinear":
            found = f"that {subject(user)} reads its codes"
            raise unsupported(node, found, "only DequantizeLinear after it", "export in QDQ form")
        other = read_uniform_quantizer(user)
        ours = (quantizer.scale, quantizer.zero_point, quantizer.dtype)
        theirs = (other.scale, other.zero_point, other.dtype)
        if ours != theirs:
            raise violation(
                user,
                f"found scale {float(theirs[0]):.9g} and zero point {theirs[1]} ({theirs[2]}), expected those of "
                f"{subject(node)}, {float(ours[0]):.9g} and {ours[1]} ({ours[2]})",
            )


def check_dequantize(node: onnx_ir.Node) -> None:
    """Check a DequantizeLinear: of a constant, or after a QuantizeLinear.

    Raises:
        ModelError: a parameter violates the contract.
        UnsupportedError: it reads something else.
    """
    if constant(node.inputs[0]) is not None:
        dequantized(node)
        return
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "QuantizeLinear":
        found = "a graph input" if producer is None else subject(producer)
        raise unsupported(node, f"{found} before it", "QuantizeLinear or constant weights", "export in QDQ form")
