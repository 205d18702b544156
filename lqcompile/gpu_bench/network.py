"""The float twin of a network as a torch module, made from its ONNX file.

Operators are those of `lqcompile.graph.supported` that `lqcompile.float_twin` leaves. Batch normalization that follows
a convolution is folded into it, as every peer does with a network that only runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import helper, numpy_helper
from torch import fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lqcompile.errors import ModelError


def torch_network(model: onnx.ModelProto) -> fx.GraphModule:
    """A module that computes the model in float32, on the CPU, in evaluation mode.

    Args:
        model: in standard operators; dimension 0 of every value is the batch, and any batch is taken.

    Returns:
        module of the model's inputs, in their order; its result is a tuple of the outputs.

    Raises:
        ModelError: an operator, or what a node asks for, has no counterpart here.
    """
    return _Maker(model).module()


class _Maker:
    """A module under construction: a call in `graph` for each node, weights in `root`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.shape_inference.infer_shapes(model)
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.shapes = {
            value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
            for value in (*self.model.graph.value_info, *self.model.graph.input, *self.model.graph.output)
        }
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.values: dict[str, fx.Node] = {}

    def module(self) -> fx.GraphModule:
        graph = self.model.graph
        for value in graph.input:
            if value.name not in self.constants:
                self.values[value.name] = self.graph.placeholder(f"input_{len(self.values)}")
        for index, node in enumerate(graph.node):
            if node.op_type == "Constant":
                self.constants[node.output[0]] = numpy_helper.to_array(_attributes(node)["value"])
            elif node.op_type in OPERATORS:
                self.values[node.output[0]] = OPERATORS[node.op_type](self, node, f"n{index}")
            else:
                raise _unsupported(node, "an operator without a counterpart in torch")
        self.graph.output(tuple(self.values[value.name] for value in graph.output))
        made = fx.GraphModule(self.root, self.graph).eval()
        _fold_batch_norm(made)
        return made

    def tensor(self, name: str, label: str) -> fx.Node:
        """A computed value, or a constant as a buffer, which moves and changes type with the module."""
        if name in self.values:
            return self.values[name]
        self.root.register_buffer(label, torch.tensor(self.constants[name]))
        return self.graph.get_attr(label)

    def array(self, node: onnx.NodeProto, index: int) -> torch.Tensor:
        """A constant input of a node."""
        if node.input[index] not in self.constants:
            raise _unsupported(node, f"its input '{node.input[index]}' computed")
        return torch.tensor(self.constants[node.input[index]])

    def layer(self, label: str, module: nn.Module, source: fx.Node) -> fx.Node:
        """A call of a module of its own."""
        self.root.add_module(label, module)
        return self.graph.call_module(label, (source,))

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> fx.Node:
        """A call of a function."""
        return self.graph.call_function(function, arguments, options)

    def source(self, node: onnx.NodeProto) -> fx.Node:
        """The first input."""
        return self.values[node.input[0]]


def _conv(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:
    given, weight = _padded_attributes(node), maker.array(node, 1)
    group = given.get("group", 1)
    made = nn.Conv2d(
        weight.shape[1] * group,
        weight.shape[0],
        tuple(weight.shape[2:]),  # type: ignore[arg-type]
        stride=tuple(given.get("strides", (1, 1))),
        dilation=tuple(given.get("dilations", (1, 1))),
        groups=group,
        bias=len(node.input) > 2,
    )
    source = maker.source(node)
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    if (top, left) == (bottom, right):
        made.padding = (top, left)
    else:
        source = maker.call(functional.pad, source, (left, right, top, bottom))
    _set(made, weight, maker.array(node, 2) if len(node.input) > 2 else None)
    return maker.layer(label, made, source)


def _gemm(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:
    given, weight = _attributes(node), maker.array(node, 1)
    if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
        raise _unsupported(node, "alpha, beta or transA")
    return _linear(maker, node, label, weight if given.get("transB", 0) else weight.T, with_bias=len(node.input) > 2)


def _matmul(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:
    return _linear(maker, node, label, maker.array(node, 1).T, with_bias=False)


def _linear(maker: _Maker, node: onnx.NodeProto, label: str, weight: torch.Tensor, *, with_bias: bool) -> fx.Node:
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=with_bias)
    _set(made, weight, maker.array(node, 2).reshape(-1).expand(weight.shape[0]) if with_bias else None)
    return maker.layer(label, made, maker.source(node))


def _batch_norm(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:
    weight, bias, mean, variance = (maker.array(node, index) for index in range(1, 5))
    kind = nn.BatchNorm2d if len(maker.shapes[node.output[0]]) == 4 else nn.BatchNorm1d
    made = kind(len(weight), eps=_attributes(node).get("epsilon", 1e-5))
    made.load_state_dict({"weight": weight, "bias": bias, "running_mean": mean, "running_var": variance}, strict=False)
    return maker.layer(label, made, maker.source(node))


def _clip(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:  # noqa: ARG001 - as all makers
    limits = [
        maker.array(node, index).item() if index < len(node.input) and node.input[index] else None for index in (1, 2)
    ]
    return maker.call(torch.clamp, maker.source(node), *limits)


def _hard_sigmoid(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:  # noqa: ARG001 - as all makers
    given = _attributes(node)
    line = maker.call(torch.mul, maker.source(node), given.get("alpha", 0.2))
    return maker.call(torch.clamp, maker.call(torch.add, line, given.get("beta", 0.5)), 0.0, 1.0)


def _leaky_relu(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:  # noqa: ARG001 - as all makers
    return maker.call(functional.leaky_relu, maker.source(node), _attributes(node).get("alpha", 0.01))


def _prelu(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:
    maker.root.register_buffer(label, maker.array(node, 1).reshape(-1))
    return maker.call(functional.prelu, maker.source(node), maker.graph.get_attr(label))


def _pool(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:  # noqa: ARG001 - as all makers
    given = _padded_attributes(node)
    if given.get("ceil_mode", 0):
        raise _unsupported(node, "ceil_mode")
    kernel, strides = given["kernel_shape"], given.get("strides", (1, 1))
    top, left, bottom, right = given.get("pads", (0, 0, 0, 0))
    source, pads = maker.source(node), (top, left)
    largest = node.op_type == "MaxPool"
    fits = (top, left) == (bottom, right) and 2 * top <= kernel[0] and 2 * left <= kernel[1]
    if not fits:
        if not largest:
            raise _unsupported(node, f"pads {list(given['pads'])}")
        source, pads = maker.call(functional.pad, source, (left, right, top, bottom), value=-math.inf), (0, 0)
    if largest:
        return maker.call(functional.max_pool2d, source, kernel, strides, pads)
    counted = bool(given.get("count_include_pad", 0))
    return maker.call(functional.avg_pool2d, source, kernel, strides, pads, count_include_pad=counted)


def _spatial_mean(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:  # noqa: ARG001 - as all makers
    kept = len(maker.shapes[node.output[0]]) == 4
    return maker.call(torch.mean, maker.source(node), (2, 3), keepdim=kept)


def _reshape(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:  # noqa: ARG001 - as all makers
    return maker.call(torch.reshape, maker.source(node), (-1, *maker.shapes[node.output[0]][1:]))


def _concat(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:  # noqa: ARG001 - as all makers
    return maker.call(torch.cat, [maker.values[name] for name in node.input], 1)


def _binary(function: Callable[..., Any]) -> Callable[[_Maker, onnx.NodeProto, str], fx.Node]:
    def make(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:
        operands = [maker.tensor(name, f"{label}_{index}") for index, name in enumerate(node.input)]
        return maker.call(function, *operands)

    return make


def _unary(function: Callable[..., Any], **options: Any) -> Callable[[_Maker, onnx.NodeProto, str], fx.Node]:
    return lambda maker, node, _: maker.call(function, maker.source(node), **options)


def _same(maker: _Maker, node: onnx.NodeProto, label: str) -> fx.Node:  # noqa: ARG001 - as all makers
    return maker.source(node)


OPERATORS: Mapping[str, Callable[[_Maker, onnx.NodeProto, str], fx.Node]] = {
    "Add": _binary(torch.add),
    "AveragePool": _pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _binary(torch.div),
    "Dropout": _same,
    "Flatten": _reshape,
    "Gemm": _gemm,
    "GlobalAveragePool": _spatial_mean,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": _same,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Mul": _binary(torch.mul),
    "PRelu": _prelu,
    "ReduceMean": _spatial_mean,
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Softmax": _unary(torch.softmax, dim=1),
    "Squeeze": _reshape,
    "Sub": _binary(torch.sub),
    "Unsqueeze": _reshape,
}
"""Operator to what makes its call."""


def _fold_batch_norm(module: fx.GraphModule) -> None:
    """conv; batch_norm --> conv, where nothing else reads the convolution."""
    for node in list(module.graph.nodes):
        before = node.args[0] if node.op == "call_module" else None
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        conv, norm = module.get_submodule(str(before.target)), module.get_submodule(str(node.target))
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, str(before.target), fuse_conv_bn_eval(conv, norm))
            node.replace_all_uses_with(before)
            module.graph.erase_node(node)
            delattr(module, str(node.target))
    module.recompile()


def _set(layer: nn.Conv2d | nn.Linear, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)


def _padded_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of an operator whose pads must stand there as numbers."""
    given = _attributes(node)
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b""):
        raise _unsupported(node, f"auto_pad {given['auto_pad'].decode()}")
    return given


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: helper.get_attribute_value(item) for item in node.attribute}


def _unsupported(node: onnx.NodeProto, found: str) -> ModelError:
    known: Sequence[str] = sorted(OPERATORS)
    return ModelError(
        f"node '{node.name}' ({node.op_type}): found {found}, expected what torch peers take ({', '.join(known)}); "
        "leave them out of --against"
    )
