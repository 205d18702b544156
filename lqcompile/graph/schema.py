"""ONNX schemas of the domain ``lqcompile``; see docs/onnx-contract.md for what each input means."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import onnx.defs
from onnx.defs import OpSchema
from onnx.shape_inference import InferenceContext

DOMAIN = "lqcompile"
"""Domain of the operators."""

VERSION = 1
"""Version of the domain that this compiler reads and writes."""

QUANTIZE = "LQQuantize"
CONV = "LQConv"
LINEAR = "LQLinear"

OPERATORS: dict[str, tuple[str, ...]] = {
    QUANTIZE: ("x", "thresholds", "levels", "basis", "codes", "offset", "scale"),
    CONV: ("x", "planes", "basis", "offset", "bias", "scale"),
    LINEAR: ("x", "planes", "basis", "offset", "bias", "scale"),
}
"""Operators and their inputs, in order; all but ``x`` are constants."""

INTS = OpSchema.AttrType.INTS
INT = OpSchema.AttrType.INT

ATTRIBUTES: dict[str, dict[str, OpSchema.AttrType]] = {
    QUANTIZE: {"integer_basis": INT},
    CONV: {
        "weight_shape": INTS,
        "strides": INTS,
        "pads": INTS,
        "dilations": INTS,
        "group": INT,
        "integer_basis": INT,
    },
    LINEAR: {"weight_shape": INTS, "integer_basis": INT},
}
"""Attributes of each operator, all required."""

UINT8_INPUTS = frozenset({"planes", "codes"})
"""Inputs of dtype uint8; the others are float32."""


def schema(name: str) -> OpSchema:
    """Schema of the operator `name`, one of `OPERATORS`.

    It carries shape inference: onnx asks a registered schema first and ignores the model's function body then.
    """
    result = OpSchema(
        name,
        DOMAIN,
        VERSION,
        inputs=[
            OpSchema.FormalParameter(label, "tensor(uint8)" if label in UINT8_INPUTS else "tensor(float)")
            for label in OPERATORS[name]
        ],
        outputs=[OpSchema.FormalParameter("y", "tensor(float)")],
        attributes=[OpSchema.Attribute(label, kind, required=True) for label, kind in ATTRIBUTES[name].items()],
    )
    result.set_type_and_shape_inference_function(_INFERENCE[name])
    return result


def register() -> None:
    """Register the schemas with onnx, so that exporters know the operators; does nothing the second time."""
    for name in OPERATORS:
        if not onnx.defs.has(name, DOMAIN):
            onnx.defs.register_schema(schema(name))


def _infer_quantize(context: InferenceContext) -> None:
    result = context.get_input_type(0)
    if result is not None:
        context.set_output_type(0, result)


def _infer_conv(context: InferenceContext) -> None:
    """Computes what sane attributes allow and leaves the rest unknown: naming a bad attribute is the checker's work."""
    result = context.get_input_type(0)
    if result is None:
        return
    weight_shape, strides, pads, dilations = (
        list(context.get_attribute(label).ints) for label in ("weight_shape", "strides", "pads", "dilations")
    )
    lengths = [len(weight_shape), len(strides), len(pads), len(dilations)]
    if len(result.tensor_type.shape.dim) == 4 and lengths == [4, 2, 4, 2] and min(strides) > 0:
        _, channels, *image = result.tensor_type.shape.dim
        channels.Clear()
        channels.dim_value = weight_shape[0]
        for axis, dim in enumerate(image):
            known = dim.HasField("dim_value")
            padded = dim.dim_value + pads[axis] + pads[axis + 2]
            span = dilations[axis] * (weight_shape[axis + 2] - 1) + 1
            dim.Clear()
            if known:
                dim.dim_value = (padded - span) // strides[axis] + 1
    else:
        result.tensor_type.ClearField("shape")
    context.set_output_type(0, result)


def _infer_linear(context: InferenceContext) -> None:
    result = context.get_input_type(0)
    if result is None:
        return
    weight_shape = context.get_attribute("weight_shape").ints
    if result.tensor_type.shape.dim and len(weight_shape) == 2:
        last = result.tensor_type.shape.dim[-1]
        last.Clear()
        last.dim_value = weight_shape[0]
    else:
        result.tensor_type.ClearField("shape")
    context.set_output_type(0, result)


_INFERENCE: dict[str, Callable[[InferenceContext], None]] = {
    QUANTIZE: _infer_quantize,
    CONV: _infer_conv,
    LINEAR: _infer_linear,
}
