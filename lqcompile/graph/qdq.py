"""Reading 8-bit quantizers and weights from QuantizeLinear and DequantizeLinear; see docs/onnx-contract.md."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx_ir

from lqcompile.graph.nodes import check_finite, constant, parameter, subject, unsupported, violation
from lqcompile.graph.specs import Float32Array, Int8Weights, UniformQuantizer


def read_uniform_quantizer(node: onnx_ir.Node) -> UniformQuantizer:
    """Quantizer of a QuantizeLinear node, or of the DequantizeLinear that follows one.

    Raises:
        ModelError: a parameter is computed, or not a positive finite scale.
        UnsupportedError: quantization per channel or to another type than 8 bits.
    """
    scale = _scale(node)
    zero_point = _zero_point(node)
    if scale.size != 1 or zero_point.size != 1:
        raise unsupported(node, f"{scale.size} scales", "one for the whole tensor", "quantize activations per tensor")
    dtype: Literal["uint8", "int8"] = "uint8" if zero_point.dtype == np.uint8 else "int8"
    return UniformQuantizer(
        name=str(node.name or node.outputs[0].name),
        scale=scale.reshape(-1)[0],
        zero_point=int(zero_point.reshape(-1)[0]),
        dtype=dtype,
    )


def read_int8_weights(node: onnx_ir.Node) -> Int8Weights:
    """Weights of a DequantizeLinear node whose input is constant.

    Raises:
        ModelError: a parameter is computed, or not a positive finite scale.
        UnsupportedError: anything but int8 with zero point 0, per tensor or per output channel (axis 0).
    """
    values = parameter(node, 0, "x")
    scale = _scale(node)
    zero_point = _zero_point(node)
    if values.dtype != np.int8 or zero_point.any():
        found = f"{values.dtype} weights with zero points {sorted(set(zero_point.reshape(-1).tolist()))}"
        raise unsupported(node, found, "int8 and 0", "quantize weights symmetrically")
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    if scale.size != 1 and (axis % max(values.ndim, 1) != 0 or scale.shape != values.shape[:1]):
        raise unsupported(
            node,
            f"{list(scale.shape)} scales along axis {axis} of {list(values.shape)} weights",
            "one per output channel, axis 0",
            "quantize weights along axis 0 (Gemm: transB=1)",
        )
    per_channel = np.broadcast_to(scale.reshape(-1), values.shape[:1])
    return Int8Weights(values=values.astype(np.int8), scale=per_channel.astype(np.float32))


def check_quantize(node: onnx_ir.Node) -> None:
    """Check a QuantizeLinear: 8 bits, and read only by DequantizeLinear nodes of equal parameters.

    Raises:
        ModelError: a parameter violates the contract.
        UnsupportedError: its codes go anywhere else.
    """
    quantizer = read_uniform_quantizer(node)
    if constant(node.inputs[0]) is not None:
        raise unsupported(node, "a constant input", "an activation", "store its codes")
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
    """Check a DequantizeLinear: of constant weights, or after a QuantizeLinear.

    Raises:
        ModelError: a parameter violates the contract.
        UnsupportedError: it reads something else.
    """
    if constant(node.inputs[0]) is not None:
        read_int8_weights(node)
        return
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    if producer is None or producer.op_type != "QuantizeLinear":
        found = "a graph input" if producer is None else subject(producer)
        raise unsupported(node, f"{found} before it", "QuantizeLinear or constant weights", "export in QDQ form")


def _scale(node: onnx_ir.Node) -> Float32Array:
    scale = parameter(node, 1, "scale")
    check_finite(node, "scale", scale)
    if scale.dtype != np.float32 or scale.ndim > 1 or not (scale.astype(np.float32) > 0).all():
        raise violation(
            node,
            f"scale is {scale.dtype}{list(scale.shape)} from {scale.min()}, expected positive float32[] or float32[O]",
        )
    return scale.astype(np.float32)


def _zero_point(node: onnx_ir.Node) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.int8]]:
    """Zero point; absent it is 0 of the type of the codes, uint8 unless the input or `output_dtype` says otherwise."""
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero_point = parameter(node, 2, "zero_point")
        dtype = zero_point.dtype
    else:
        codes = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
        dtype = np.dtype(np.uint8) if codes is None or codes.dtype is None else codes.dtype.numpy()
        zero_point = np.zeros((), dtype)
    if dtype != np.uint8 and dtype != np.int8:
        raise unsupported(node, f"codes of type {dtype}", "uint8 or int8", "quantize to 8 bits")
    return zero_point.astype(dtype)
