"""Checking a loaded model: what passes here is what the compiler compiles."""

from __future__ import annotations

import os

import onnx_ir

from lqcompile.errors import ModelError, UnsupportedError
from lqcompile.graph.contract import read_bias, read_geometry, read_quantizer, read_weights
from lqcompile.graph.dense import check_channels
from lqcompile.graph.functions import overload
from lqcompile.graph.load import load
from lqcompile.graph.nodes import constant, sample_shape, subject, unsupported, violation
from lqcompile.graph.schema import CONV, DOMAIN, OPERATORS, QUANTIZE
from lqcompile.graph.supported import check_operator, check_standard

__all__ = ["check", "load_checked", "read_bias", "read_geometry", "read_quantizer", "read_weights"]


def load_checked(path: str | os.PathLike[str]) -> onnx_ir.Model:
    """Read a model and check it; see `lqcompile.graph.load.load` and `check`.

    Raises:
        ModelError: the file is unreadable, or violates the contract.
        UnsupportedError: the model is valid, but lqcompile does not compile it.
    """
    model = load(path)
    check(model)
    return model


def check(model: onnx_ir.Model) -> None:
    """Check every value and every node of a loaded model.

    Raises:
        ModelError: the model violates the contract; the message names the node.
        UnsupportedError: the model is valid, but lqcompile does not compile it.
    """
    for node in model.graph:
        if node.domain == DOMAIN:
            _check_low_bit(model, node)
        elif node.domain not in ("", "ai.onnx"):
            raise UnsupportedError(
                f"{subject(node)}: found an operator of the domain '{node.domain}', expected ai.onnx or {DOMAIN}; "
                "export without custom operators"
            )
        else:
            check_operator(node)
    _check_values(model.graph)
    for node in model.graph:
        if node.domain == DOMAIN:
            _check_low_bit_input(node)
        else:
            check_standard(node)


def _check_low_bit(model: onnx_ir.Model, node: onnx_ir.Node) -> None:
    if node.op_type not in OPERATORS:
        raise violation(node, f"found an unknown operator, expected one of {', '.join(sorted(OPERATORS))}")
    if node.op_identifier() not in model.functions:
        label = f" with overload '{node.overload}'" if node.overload else ""
        raise violation(node, f"found no function body{label} in the file, expected one")
    if node.op_type == QUANTIZE:
        expected = overload(QUANTIZE, read_quantizer(node).bits)
        if node.overload not in ("", expected):
            raise violation(node, f"overload is '{node.overload}', expected '{expected}' for its thresholds")
        return
    weights = read_weights(node)
    read_bias(node)
    if node.op_type == CONV:
        read_geometry(node, (weights.shape[2], weights.shape[3]))


def _check_low_bit_input(node: onnx_ir.Node) -> None:
    if node.op_type == QUANTIZE:
        return
    weights = read_weights(node)
    shape = sample_shape(node.inputs[0])
    rank = len(weights.shape)
    if len(shape) + 1 != rank:
        axes = "[N,C,H,W]" if node.op_type == CONV else "[N,C]"
        raise unsupported(node, f"an input of rank {len(shape) + 1}", f"{rank} {axes}", "reshape it before")
    group = read_geometry(node, (weights.shape[2], weights.shape[3])).group if node.op_type == CONV else 1
    check_channels(node, weights.shape, group)


def _check_values(graph: onnx_ir.Graph) -> None:
    if not graph.inputs:
        raise ModelError("model: found no input, expected at least one; export the model again")
    for value in graph.inputs:
        if value.dtype != onnx_ir.DataType.FLOAT:
            raise UnsupportedError(
                f"input '{value.name}': found type {value.dtype}, expected float32; export with a float32 example"
            )
        _check_shape(value, f"input '{value.name}'")
    for node in graph:
        for value in node.outputs:
            if constant(value) is None and (value.uses() or value.is_graph_output()):
                _check_shape(value, f"{subject(node)}: output '{value.name}'")


def _check_shape(value: onnx_ir.Value, name: str) -> None:
    """Every dimension is a positive number, but for the batch, which may be open."""
    if value.shape is None:
        raise ModelError(f"{name}: found no shape, expected one that can be inferred; export the model again")
    dims = [dim if isinstance(dim, int) else (dim.value or "?") for dim in value.shape]
    shown = f"[{', '.join(str(dim) for dim in dims)}]"
    if not dims:
        raise UnsupportedError(f"{name}: found a scalar, expected a batch in dimension 0; keep the batch dimension")
    if any(isinstance(dim, int) and dim < 1 for dim in dims):
        raise ModelError(f"{name}: found shape {shown}, expected sizes of 1 or more; export with a larger example")
    if any(not isinstance(dim, int) for dim in dims[1:]):
        raise UnsupportedError(
            f"{name}: found shape {shown}, expected only the batch (dimension 0) to vary; export with fixed sizes"
        )
