"""Constants behind QuantizeLinear and DequantizeLinear: weights, biases and operands as quantizing tools store them.

    bias   int32 --> DequantizeLinear --> float32
    weight float32 --> QuantizeLinear --> int8 --> DequantizeLinear --> float32

Both are evaluated once, in float32, as ONNX defines them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir

from lqcompile.errors import LQCompileError
from lqcompile.graph.nodes import check_finite, constant, float_parameter, parameter, unsupported, violation
from lqcompile.graph.specs import Float32Array

CODES = ("uint8", "int8")
"""Types of codes."""


def fold_quantized_constants(graph: onnx_ir.Graph) -> None:
    """Give the outputs of quantizing nodes with constant inputs their content, which `constant` then finds.

    Nodes that break a rule are left alone: `lqcompile.graph.check` names them.
    """
    for node in graph:
        if node.domain in ("", "ai.onnx") and node.op_type in FOLDED and constant(node.inputs[0]) is not None:
            try:
                content = FOLDED[node.op_type](node)
            except LQCompileError:
                continue
            node.outputs[0].const_value = onnx_ir.tensor(content)


def dequantized(node: onnx_ir.Node) -> Float32Array:
    """What a DequantizeLinear makes of a constant: ``float32(x - zero_point) * scale``, each rounded once.

    Raises:
        ModelError: a parameter is computed, does not fit, or is not a positive finite scale.
        UnsupportedError: codes of another type than uint8, int8 or (a bias) int32, or scales per block.
    """
    codes = parameter(node, 0, "x")
    zero_point = read_zero_point(node, (*CODES, "int32"))
    if codes.dtype != zero_point.dtype:
        raise violation(node, f"found codes of type {codes.dtype} and a zero point of type {zero_point.dtype}")
    if codes.dtype == np.int32 and zero_point.any():
        raise unsupported(node, "int32 codes with zero points", "zero point 0", "quantize biases symmetrically")
    scale = along_axis(node, read_scale(node), codes)
    steps = codes.astype(np.int64) - along_axis(node, zero_point, codes).astype(np.int64)
    result: Float32Array = steps.astype(np.float32) * scale
    check_finite(node, "the dequantized constant", result)
    return result


def quantized(node: onnx_ir.Node) -> npt.NDArray[np.generic]:
    """What a QuantizeLinear makes of a constant: ``clip(round_half_even(x / scale) + zero_point)``.

    Raises:
        ModelError: a parameter is computed, does not fit, or is not a positive finite scale.
        UnsupportedError: a constant that is not float32, codes of another type than 8 bits, or scales per block.
    """
    values = float_parameter(node, 0, "x")
    zero_point = read_zero_point(node, CODES)
    scale = along_axis(node, read_scale(node), values)
    limits = np.iinfo(zero_point.dtype)
    with np.errstate(over="ignore"):
        steps = np.rint(values / scale).astype(np.float64)
    codes = np.clip(steps + along_axis(node, zero_point, values), limits.min, limits.max)
    result: npt.NDArray[np.generic] = codes.astype(zero_point.dtype)
    return result


FOLDED = {"DequantizeLinear": dequantized, "QuantizeLinear": quantized}
"""Operators whose constants are evaluated."""


def read_scale(node: onnx_ir.Node) -> Float32Array:
    """Scale of a QuantizeLinear or DequantizeLinear: float32[] or float32[O], positive and finite.

    Raises:
        ModelError: it is anything else.
    """
    scale = parameter(node, 1, "scale")
    check_finite(node, "scale", scale)
    if scale.dtype != np.float32 or scale.ndim > 1 or not scale.size or not (scale.astype(np.float32) > 0).all():
        least = f" from {scale.min()}" if scale.size else ""
        raise violation(
            node, f"scale is {scale.dtype}{list(scale.shape)}{least}, expected positive float32[] or float32[O]"
        )
    return scale.astype(np.float32)


def read_zero_point(node: onnx_ir.Node, types: tuple[str, ...] = CODES) -> npt.NDArray[np.integer]:
    """Zero point of a QuantizeLinear or DequantizeLinear.

    Absent it is 0 of the type of the codes, uint8 unless the input or `output_dtype` says otherwise.

    Raises:
        ModelError: it is computed.
        UnsupportedError: it is none of `types`.
    """
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        zero_point = parameter(node, 2, "zero_point")
        dtype = zero_point.dtype
    else:
        codes = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
        dtype = np.dtype(np.uint8) if codes is None or codes.dtype is None else codes.dtype.numpy()
        zero_point = np.zeros((), dtype)
    if dtype.name not in types:
        raise unsupported(node, f"codes of type {dtype}", "uint8 or int8", "quantize to 8 bits")
    return zero_point.astype(np.dtype(dtype.name))


def along_axis(node: onnx_ir.Node, values: npt.NDArray[Any], tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A scale or zero point in a shape that broadcasts over what it belongs to.

    Raises:
        ModelError: there are not as many as the tensor has entries along `axis`.
        UnsupportedError: scales per block.
    """
    if node.attributes.get("block_size") is not None and node.attributes["block_size"].as_int():
        raise unsupported(node, "scales per block", "one per tensor or channel", "quantize without blocks")
    if values.size == 1:
        return values.reshape(())
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    if not -tensor.ndim <= axis < tensor.ndim or values.shape != (tensor.shape[axis],):
        raise violation(
            node,
            f"found {list(values.shape)} scales or zero points along axis {axis} of {list(tensor.shape)}, "
            "expected one per entry of that axis",
        )
    return values.reshape([-1 if index == axis % tensor.ndim else 1 for index in range(tensor.ndim)])
