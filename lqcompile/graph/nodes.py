"""Asking a node for its name, shapes, attributes and constants, with errors that name it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx_ir

from lqcompile.errors import ModelError, UnsupportedError

Shape = tuple[int, ...]


def subject(node: onnx_ir.Node) -> str:
    """How errors call a node: ``node 'conv1' (lqcompile::LQConv)``; without a name, by its first output.

    Standard operators have no domain in front of the type.
    """
    kind = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    name = f"node '{node.name}'" if node.name else f"the node that makes '{node.outputs[0].name}'"
    return f"{name} ({kind})"


def violation(node: onnx_ir.Node, text: str, remedy: str = "export the model again") -> ModelError:
    """The error that a node violates the contract; `text` says what was found and what was expected."""
    return ModelError(f"{subject(node)}: {text}; {remedy}")


def unsupported(node: onnx_ir.Node, found: str, expected: str, remedy: str) -> UnsupportedError:
    """The error that a valid node uses something that is not compiled."""
    return UnsupportedError(f"{subject(node)}: found {found}, expected {expected}; {remedy}")


def sample_shape(value: onnx_ir.Value | None) -> Shape:
    """Shape of a value without its batch dimension; all numbers once the model is checked."""
    if value is None or value.shape is None:
        return ()
    return cast("Shape", tuple(value.shape[1:]))


def int_attribute(node: onnx_ir.Node, label: str, default: int) -> int:
    """Value of an optional attribute."""
    attribute = node.attributes.get(label)
    return default if attribute is None else attribute.as_int()


def float_attribute(node: onnx_ir.Node, label: str, default: float) -> float:
    """Value of an optional attribute: a float32 number."""
    attribute = node.attributes.get(label)
    return default if attribute is None else attribute.as_float()


def constant(value: onnx_ir.Value | None) -> npt.NDArray[np.generic] | None:
    """Content of an initializer or of the output of a Constant node, through Identity; None for anything computed.

    What `lqcompile.graph.folding` has evaluated counts as constant.
    """
    while value is not None:
        producer = value.producer()
        if producer is None or value.const_value is not None:
            return None if value.const_value is None else np.asarray(value.const_value.numpy())
        if producer.op_type == "Constant":
            tensor = onnx_ir.convenience.get_const_tensor(value)
            return None if tensor is None else np.asarray(tensor.numpy())
        if producer.op_type != "Identity":
            return None
        value = producer.inputs[0]
    return None


def parameter(node: onnx_ir.Node, index: int, label: str) -> npt.NDArray[np.generic]:
    """Constant input `index` of a node.

    Raises:
        ModelError: the input is missing, or computed.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    array = constant(value)
    if array is None:
        found = "no such input" if value is None else f"the computed value '{value.name}'"
        raise violation(node, f"{label}: found {found}, expected a constant")
    return array


def typed_parameter(
    node: onnx_ir.Node, index: int, label: str, dtype: str, shape: Sequence[int]
) -> npt.NDArray[np.generic]:
    """Constant input `index` of a node, of an exact dtype and shape; floats are finite.

    Raises:
        ModelError: one of these does not hold.
    """
    array = parameter(node, index, label)
    if array.dtype != np.dtype(dtype) or array.shape != tuple(shape):
        raise violation(node, f"{label} is {array.dtype}{list(array.shape)}, expected {dtype}{list(shape)}")
    check_finite(node, label, array)
    return array


def check_finite(node: onnx_ir.Node, label: str, array: npt.NDArray[np.generic]) -> None:
    """Refuse NaN and infinity.

    Raises:
        ModelError: there is one.
    """
    if array.dtype.kind == "f" and not np.isfinite(cast("npt.NDArray[np.floating]", array)).all():
        raise violation(
            node,
            f"{label} has NaN or infinite entries, expected finite numbers",
            remedy="look for a diverged training run and export again",
        )


def float_parameter(node: onnx_ir.Node, index: int, label: str) -> npt.NDArray[np.float32]:
    """Constant input `index` of a node, float32 and finite.

    Raises:
        ModelError: it is missing, computed or not finite.
        UnsupportedError: it has another type.
    """
    array = parameter(node, index, label)
    if array.dtype != np.float32:
        raise unsupported(node, f"{label} of type {array.dtype}", "float32", "convert the model to float32")
    check_finite(node, label, array)
    return array.astype(np.float32)


def check_rank(node: onnx_ir.Node, rank: int) -> None:
    """Refuse a first input of another rank, which counts the batch.

    Raises:
        UnsupportedError: the rank is another.
    """
    found = len(sample_shape(node.inputs[0])) + 1
    if found != rank:
        axes = "[N,C,H,W]" if rank == 4 else "[N,C]"
        raise unsupported(node, f"an input of rank {found}", f"{rank} {axes}", "reshape it before")
