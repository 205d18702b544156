"""The integer form: a plan written in standard ONNX operators that evaluate exactly its arithmetic.

ONNX Runtime then is an oracle without rounding of its own: contractions are ConvInteger on bit planes, integer bases or
8-bit codes, their epilogue is Mul and Add in float64 in the canonical order, and thresholds are compared in float32.
Only float contractions and Softmax keep the rounding of ONNX Runtime. Run it with graph optimizations off, which could
reorder the float64 arithmetic.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx

from lqcompile.graph.plan import AnyQuantizer, AveragePool, Concat, Contraction, Plan, Region, Softmax, Value, is_exact
from lqcompile.graph.specs import Quantizer, UniformQuantizer
from lqcompile.integer_form.contraction import Integers, write_exact_contraction, write_float_contraction
from lqcompile.integer_form.stages import write_average_pool, write_stages
from lqcompile.integer_form.writer import GraphWriter
from lqcompile.reference.values import held_quantizer


def value_output(name: str) -> str:
    """The output of the integer form that holds the plan's value `name`, in its logical encoding."""
    return f"value:{name}"


def integers_output(region: str) -> str:
    """The output of the integer form that holds the integers of a region."""
    return f"integers:{region}"


def integer_form(plan: Plan, *, expose: bool = False) -> onnx.ModelProto:
    """Write a plan as an ONNX model that evaluates its arithmetic exactly.

    Args:
        plan: from `lqcompile.graph.fuse.make_plan`.
        expose: add an output per value (`value_output`; uint8 level indices, 8-bit codes or float32) and the integers
            of every exact contraction (`integers_output`; int32, T or S_ij as `lqcompile.reference.execute_region`
            gives them).

    Returns:
        The model; its first outputs are those of the file.

    Raises:
        UnsupportedError: the integers of a contraction may not fit int32.
    """
    writer = GraphWriter()
    tensors = {}
    for value in plan.inputs:
        writer.input(value.name, value.shape)
        tensors[value.name] = value.name
    integers: dict[str, Integers] = {}
    for region in plan.regions:
        if isinstance(region.operation, Concat) and region.operation.of_codes:
            joined = writer.node("Concat", *(tensors[name] for name in region.inputs), axis=1)
            tensors |= {output.value.name: joined for output in region.outputs}
            continue
        y = _operation(writer, plan, region, tensors, integers)
        rank = 3 if isinstance(region.operation, Contraction) else len(plan.values[region.inputs[0]].shape)
        residuals = {}
        for name in region.residuals:
            shape = plan.values[name].shape
            residual = writer.reshape(tensors[name], (*shape, *([1] * (rank - len(shape)))))
            residuals[name] = _real(writer, residual, plan.values[name])
        y = write_stages(writer, y, region.stages, residuals, rank)
        stream = writer.reshape(writer.cast(y, np.float32), region.stream_shape)
        for output in region.outputs:
            x = stream
            if output.stages:
                staged = write_stages(writer, writer.cast(x, np.float64), output.stages, {}, len(region.stream_shape))
                x = writer.cast(staged, np.float32)
            tensors[output.value.name] = _encoded(writer, writer.reshape(x, output.value.shape), output.value)
    for name, source, shape in plan.outputs:
        real = _real(writer, tensors[source], plan.values[source])
        writer.node("Identity", writer.reshape(real, shape), name=name)
        writer.output(name, np.float32, shape)
    if expose:
        made = [output.value for region in plan.regions for output in region.outputs]
        for value in made:
            writer.node("Identity", tensors[value.name], name=value_output(value.name))
            writer.output(value_output(value.name), _dtype(value), value.shape)
        for region_name, (tensor, shape) in integers.items():
            writer.node("Identity", tensor, name=integers_output(region_name))
            writer.output(integers_output(region_name), np.int32, shape)
    return writer.model("integer_form")


def _operation(
    writer: GraphWriter,
    plan: Plan,
    region: Region,
    tensors: dict[str, str],
    integers: dict[str, Integers],
) -> str:
    """The operation of a region, float64; notes the tensor of its integers."""
    operation = region.operation
    source = plan.values[region.inputs[0]]
    if isinstance(operation, Contraction):
        x = writer.reshape(tensors[source.name], operation.in_shape)
        quantizer = held_quantizer(source)
        if not is_exact(operation, quantizer):
            return write_float_contraction(writer, operation, _real(writer, x, source))
        y, integers[region.name] = write_exact_contraction(writer, region, operation, quantizer, x)
        return y
    reals = [_real(writer, tensors[name], plan.values[name]) for name in region.inputs]
    if isinstance(operation, AveragePool):
        return write_average_pool(writer, writer.cast(reals[0], np.float64), operation, source.shape)
    if isinstance(operation, Concat):
        return writer.cast(writer.node("Concat", *reals, axis=1), np.float64)
    if isinstance(operation, Softmax):
        return writer.cast(writer.node("Softmax", reals[0], axis=1), np.float64)
    return writer.cast(reals[0], np.float64)


def _encoded(writer: GraphWriter, x: str, value: Value) -> str:
    """Quantize float32 `x` into the logical encoding of `value`."""
    quantizer = value.quantizer
    if quantizer is None:
        return x
    if isinstance(quantizer, UniformQuantizer):
        codes = writer.node("QuantizeLinear", x, *_uniform(writer, quantizer))
    else:
        codes = writer.constant(np.uint8(0))
        for index, threshold in enumerate(quantizer.thresholds):
            exceeds = writer.node("Greater", x, writer.constant(threshold))
            codes = writer.node("Where", exceeds, writer.constant(np.uint8(index + 1)), codes)
    return _decoded(writer, codes, quantizer) if value.decoded else codes


def _real(writer: GraphWriter, tensor: str, value: Value) -> str:
    """The float32 values of a value."""
    quantizer = held_quantizer(value)
    return tensor if quantizer is None else _decoded(writer, tensor, quantizer)


def _decoded(writer: GraphWriter, codes: str, quantizer: AnyQuantizer) -> str:
    """The float32 values of codes."""
    if isinstance(quantizer, UniformQuantizer):
        return writer.node("DequantizeLinear", codes, *_uniform(writer, quantizer))
    return writer.node("Gather", writer.constant(quantizer.levels), writer.cast(codes, np.int32))


def _uniform(writer: GraphWriter, quantizer: UniformQuantizer) -> tuple[str, str]:
    """Scale and zero point of QuantizeLinear and DequantizeLinear."""
    point = np.array(quantizer.zero_point, dtype=quantizer.dtype)
    return writer.constant(np.float32(quantizer.scale)), writer.constant(point)


def _dtype(value: Value) -> npt.DTypeLike:
    """Dtype of the logical encoding of a value."""
    quantizer = held_quantizer(value)
    if quantizer is None:
        return np.float32
    return np.uint8 if isinstance(quantizer, Quantizer) else np.dtype(quantizer.dtype)
