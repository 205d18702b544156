"""The float network that a low-bit network stands for, derived from its ONNX file.

For speed comparisons where no trained float twin is at hand: the same layers and shapes in standard float operators, so
that ONNX Runtime can do its best on it. Its accuracy means nothing.

    LQConv, LQLinear          --> Conv, Gemm (MatMul and Add where x is not a matrix) with the dequantized weights
    LQQuantize after Relu     --> nothing
    LQQuantize elsewhere      --> Clip to its lowest and highest level
    Quantize, DequantizeLinear of activations --> nothing
    DequantizeLinear of constants             --> the constant
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from lqcompile import encoding
from lqcompile.errors import ModelError
from lqcompile.graph import schema
from lqcompile.graph.schema import DOMAIN

Constants = dict[str, npt.NDArray[Any]]


def derive_float_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replace the low-bit and 8-bit operators of a model by float ones.

    Args:
        model: a file that keeps the ONNX contract; it is not changed.

    Returns:
        a model in standard operators with the same inputs and outputs.

    Raises:
        ModelError: a parameter of a low-bit operator is not constant.
    """
    graph = model.graph
    constants: Constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    ranks = _ranks(model)
    makers = {node.output[0]: node for node in graph.node}
    renamed: dict[str, str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        new = _replace(node, constants, ranks, makers)
        if new is None:
            renamed[node.output[0]] = renamed.get(node.input[0], node.input[0])
            continue
        for item in new:
            inputs = [renamed.get(name, name) for name in item.input]
            del item.input[:]
            item.input.extend(inputs)
        nodes.extend(new)
    nodes.extend(
        helper.make_node("Identity", [renamed[value.name]], [value.name])
        for value in graph.output
        if value.name in renamed
    )
    return _assemble(model, nodes, constants)


def _replace(
    node: onnx.NodeProto, constants: Constants, ranks: dict[str, int], makers: dict[str, onnx.NodeProto]
) -> list[onnx.NodeProto] | None:
    """The nodes that stand for `node`, or None where its input takes its place; new constants are added."""
    if node.domain == DOMAIN:
        if node.op_type == "LQQuantize":
            return _clip(node, constants, makers)
        return _float_layer(node, constants, ranks)
    if node.op_type == "DequantizeLinear" and node.input[0] in constants:
        constants[node.output[0]] = _dequantize(node, constants)
        return []
    return None if node.op_type in ("QuantizeLinear", "DequantizeLinear") else [_copy(node)]


def _clip(node: onnx.NodeProto, constants: Constants, makers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto] | None:
    source = makers.get(node.input[0])
    while source is not None and source.op_type in ("MaxPool", "Flatten", "Reshape", "Identity"):
        source = makers.get(source.input[0])
    if source is not None and source.op_type == "Relu":
        return None
    levels = _constant(node, 2, constants)
    names = [f"{node.output[0]}_lowest", f"{node.output[0]}_highest"]
    constants[names[0]], constants[names[1]] = levels[:1].reshape(()), levels[-1:].reshape(())
    return [helper.make_node("Clip", [node.input[0], *names], list(node.output), name=node.name)]


def _float_layer(node: onnx.NodeProto, constants: Constants, ranks: dict[str, int]) -> list[onnx.NodeProto]:
    attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    planes, basis, offset, bias, scale = (_constant(node, index, constants) for index in range(1, 6))
    shape = tuple(attributes["weight_shape"])
    bits = encoding.unpack_planes(planes.astype(np.uint8), int(np.prod(shape[1:]))).astype(np.float32) * 2 - 1
    weight = offset[:, None] + scale[:, None] * np.einsum("oi,oim->om", basis, bits)
    names = [f"{node.output[0]}_weight", f"{node.output[0]}_bias"]
    constants[names[0]], constants[names[1]] = weight.reshape(shape).astype(np.float32), bias.astype(np.float32)
    if node.op_type == "LQConv":
        kept = {key: attributes[key] for key in ("strides", "pads", "dilations", "group") if key in attributes}
        return [helper.make_node("Conv", [node.input[0], *names], list(node.output), name=node.name, **kept)]
    if ranks.get(node.input[0], 2) == 2:
        return [helper.make_node("Gemm", [node.input[0], *names], list(node.output), name=node.name, transB=1)]
    constants[names[0]] = np.ascontiguousarray(constants[names[0]].T)
    product = f"{node.output[0]}_product"
    return [
        helper.make_node("MatMul", [node.input[0], names[0]], [product], name=node.name),
        helper.make_node("Add", [product, names[1]], list(node.output)),
    ]


def _dequantize(node: onnx.NodeProto, constants: Constants) -> npt.NDArray[np.float32]:
    values, scale = constants[node.input[0]], constants[node.input[1]].astype(np.float32)
    zero = constants[node.input[2]].astype(np.int64) if len(node.input) > 2 else np.zeros_like(scale, dtype=np.int64)
    axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
    form = [1] * values.ndim
    if scale.ndim:
        form[axis] = -1
    result: npt.NDArray[np.float32] = (values.astype(np.int64) - zero.reshape(form)) * scale.reshape(form)
    return result.astype(np.float32)


def _constant(node: onnx.NodeProto, index: int, constants: Constants) -> npt.NDArray[Any]:
    name = node.input[index]
    if name not in constants:
        raise ModelError(
            f"node '{node.name}' ({node.domain}::{node.op_type}): input '{name}' is computed, expected a constant; "
            "export the model again"
        )
    return constants[name]


def _ranks(model: onnx.ModelProto) -> dict[str, int]:
    schema.register()
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = [*inferred.value_info, *inferred.input, *inferred.output]
    return {value.name: len(value.type.tensor_type.shape.dim) for value in values}


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    return copy


def _assemble(model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto], constants: Constants) -> onnx.ModelProto:
    """A model of these nodes with the constants that they use."""
    kept = list(nodes)
    used = {name for node in kept for name in node.input}
    made = {name for node in kept for name in node.output}
    graph = helper.make_graph(
        kept,
        model.graph.name or "float_twin",
        list(model.graph.input),
        list(model.graph.output),
        [
            numpy_helper.from_array(np.asarray(constants[name]), name)
            for name in sorted(used - made)
            if name in constants
        ],
    )
    opsets = [opset for opset in model.opset_import if opset.domain != DOMAIN]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
