"""Convolutions and linear layers; a linear layer on a flattened image becomes a convolution over all of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx_ir

from lqcompile.graph.builder import FlowBuilder, View
from lqcompile.graph.contract import read_bias, read_geometry, read_weights
from lqcompile.graph.dense import read_dense_bias, read_dense_weights
from lqcompile.graph.nodes import float_attribute
from lqcompile.graph.padding import read_padded_geometry
from lqcompile.graph.plan import Affine, AnyWeights, Contraction, Geometry, Shape
from lqcompile.graph.specs import FloatWeights, Int8Weights, LowBitWeights

FloatArray = npt.NDArray[np.floating]


def low_bit(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """LQConv and LQLinear."""
    weights = read_weights(node)
    if node.op_type == "LQConv":
        geometry = read_geometry(node, (weights.shape[2], weights.shape[3]))
        _convolve(builder, node, weights, geometry, read_bias(node))
    else:
        _multiply(builder, node, weights, read_bias(node))


def convolution(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """Conv."""
    weights = read_dense_weights(node)
    geometry = read_padded_geometry(node, (weights.shape[2], weights.shape[3]))
    _convolve(builder, node, weights, geometry, read_dense_bias(node))


def gemm(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """Gemm with constant weights, ``alpha * x W + beta * b``: a linear layer."""
    bias = read_dense_bias(node).astype(np.float64) * float_attribute(node, "beta", 1.0)
    _multiply(builder, node, read_dense_weights(node), bias, alpha=float_attribute(node, "alpha", 1.0))


def matmul(builder: FlowBuilder, node: onnx_ir.Node) -> None:
    """MatMul with constant weights: a linear layer without bias."""
    _multiply(builder, node, read_dense_weights(node), np.zeros(1))


def _convolve(
    builder: FlowBuilder, node: onnx_ir.Node, weights: AnyWeights, geometry: Geometry, bias: FloatArray
) -> None:
    view = builder.view(node)
    out_shape = (weights.shape[0], *geometry.output_size(*view.shape[1:]))
    contraction = Contraction(weights=weights, geometry=geometry, in_shape=view.shape, out_shape=out_shape)
    _emit(builder, node, view, contraction, out_shape, bias)


def _multiply(
    builder: FlowBuilder, node: onnx_ir.Node, weights: AnyWeights, bias: FloatArray, alpha: float = 1.0
) -> None:
    """``linear(flatten(x)) --> conv(x)`` with a kernel as large as the image; ONNX flattens in the order C, H, W."""
    view = builder.view(node)
    outputs = weights.shape[0]
    image = view.stored[1:] if len(view.stored) == 3 else (1, 1)
    if image != (1, 1):
        weights = reshape_weights(weights, (outputs, *view.stored))
    contraction = Contraction(
        weights=weights,
        geometry=Geometry(kernel=(image[0], image[1])),
        in_shape=(view.stored[0], *image),
        out_shape=(outputs, 1, 1),
    )
    _emit(builder, node, view, contraction, (outputs,), bias, alpha)


def reshape_weights(weights: AnyWeights, shape: Shape) -> AnyWeights:
    """The same weights in the same order under another shape with the same output channels."""
    if isinstance(weights, LowBitWeights):
        return replace(weights, shape=shape)
    if isinstance(weights, Int8Weights):
        return Int8Weights(values=weights.values.reshape(shape), scale=weights.scale)
    return FloatWeights(values=weights.values.reshape(shape))


def _emit(
    builder: FlowBuilder,
    node: onnx_ir.Node,
    view: View,
    contraction: Contraction,
    shape: Shape,
    bias: FloatArray,
    alpha: float = 1.0,
) -> None:
    """Append the contraction and, unless they change nothing, its factor and bias."""
    shift = np.broadcast_to(bias.astype(np.float64), shape[:1]).copy()
    if not shift.any() and alpha == 1:
        builder.emit(node, contraction, (view,), shape)
        return
    total = builder.emit(node, contraction, (view,), shape, part="sum")
    builder.emit(node, Affine(scale=np.full_like(shift, alpha), shift=shift), (total,), shape)
