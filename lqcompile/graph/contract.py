"""Reading `Quantizer`, `LowBitWeights` and `Geometry` from nodes, held against docs/onnx-contract.md."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import onnx_ir

from lqcompile.encoding import MAX_ACTIVATION_TOTAL, MAX_BITS, MAX_WEIGHT_TOTAL, SCALE_BITS, code_bits
from lqcompile.graph.nodes import parameter, typed_parameter, violation
from lqcompile.graph.plan import Geometry
from lqcompile.graph.schema import LINEAR, OPERATORS
from lqcompile.graph.specs import Float32Array, LowBitWeights, Quantizer

LEVEL_TOLERANCE = 1e-6
"""Of the largest level: how far levels may be from what basis and codes give. Four roundings to float32 stay below."""


def read_quantizer(node: onnx_ir.Node) -> Quantizer:
    """Quantizer of an LQQuantize node.

    Raises:
        ModelError: the node violates the contract.
    """
    bits = _bits(node, "basis", parameter(node, _index(node, "basis"), "basis").shape, 1)
    count = 1 << bits
    thresholds = _float32(node, "thresholds", (count - 1,))
    levels = _float32(node, "levels", (count,))
    basis = _float32(node, "basis", (bits,))
    codes = typed_parameter(node, _index(node, "codes"), "codes", "uint8", (count,)).astype(np.uint8)
    offset = _float32(node, "offset", ())
    scale = _float32(node, "scale", ())
    integer = _integer_basis(node)
    for label, values in (("thresholds", thresholds), ("levels", levels)):
        if (np.diff(values) < 0).any():
            raise violation(node, f"{label} are {values.tolist()}, expected ascending order")
    if sorted(codes.tolist()) != list(range(count)):
        raise violation(node, f"codes are {codes.tolist()}, expected a permutation of 0..{count - 1}")
    _check_scale(node, scale.reshape(1), offset.reshape(1), integer)
    if integer:
        _check_integers(node, basis)
        if (basis < 0).any() or basis.sum() > MAX_ACTIVATION_TOTAL:
            raise violation(
                node,
                f"integer_basis is 1 and basis is {basis.tolist()}, expected entries of 0 and more that "
                f"sum to at most {MAX_ACTIVATION_TOTAL}",
            )
    sums = basis.astype(np.float64) @ code_bits(codes, bits)
    expected = float(offset) + float(scale) * sums
    tolerance = 0.0 if integer else LEVEL_TOLERANCE * float(np.abs(levels).max())
    wrong = np.abs(levels - expected) > tolerance
    if wrong.any():
        first = int(np.argmax(wrong))
        raise violation(
            node,
            f"levels[{first}] is {levels[first]:.9g}, expected {expected[first]:.9g} from basis and "
            f"codes[{first}]={codes[first]}",
        )
    return Quantizer(
        name=_name(node),
        thresholds=thresholds,
        levels=levels,
        basis=basis,
        codes=codes,
        offset=float(offset),
        scale=float(scale),
        integer_basis=integer,
    )


def read_weights(node: onnx_ir.Node) -> LowBitWeights:
    """Weights of an LQConv or LQLinear node.

    Raises:
        ModelError: the node violates the contract.
    """
    shape = _weight_shape(node)
    planes = parameter(node, _index(node, "planes"), "planes")
    bits = _bits(node, "planes", planes.shape, 3, axis=1)
    length = math.prod(shape[1:])
    expected = (shape[0], bits, (length + 7) // 8)
    if planes.ndim == 3 and planes.shape[2] < expected[2]:
        raise violation(
            node,
            f"planes hold {8 * planes.shape[2]} bits per row, expected at least {length} for weight_shape "
            f"{list(shape)}",
        )
    packed = typed_parameter(node, _index(node, "planes"), "planes", "uint8", expected).astype(np.uint8)
    if length % 8 and (packed[:, :, -1] >> (length % 8)).any():
        raise violation(node, f"planes have bits set after the first {length} of a row, expected zeros")
    basis = _float32(node, "basis", expected[:2])
    offset = _float32(node, "offset", shape[:1])
    scale = _float32(node, "scale", shape[:1])
    integer = _integer_basis(node)
    _check_scale(node, scale, offset, integer)
    if integer:
        _check_integers(node, basis)
        totals = np.abs(basis).sum(axis=1)
        if (totals > MAX_WEIGHT_TOTAL).any():
            channel = int(np.argmax(totals))
            raise violation(
                node,
                f"integer_basis is 1 and basis[{channel}] is {basis[channel].tolist()}, expected absolute "
                f"values that sum to at most {MAX_WEIGHT_TOTAL}",
            )
    return LowBitWeights(planes=packed, basis=basis, offset=offset, scale=scale, integer_basis=integer, shape=shape)


def read_bias(node: onnx_ir.Node) -> Float32Array:
    """Bias of an LQConv or LQLinear node: float32[O].

    Raises:
        ModelError: the node violates the contract.
    """
    return _float32(node, "bias", _weight_shape(node)[:1])


def read_geometry(node: onnx_ir.Node, kernel: tuple[int, int]) -> Geometry:
    """Strides, pads, dilations and group of an LQConv or Conv node with explicit pads.

    Args:
        node: attributes that are absent have the defaults of ONNX.
        kernel: (kh, kw) of the weights.

    Raises:
        ModelError: an attribute has the wrong length or a value out of range.
    """
    strides = _ints(node, "strides", (1, 1), least=1)
    pads = _ints(node, "pads", (0, 0, 0, 0), least=0)
    dilations = _ints(node, "dilations", (1, 1), least=1)
    (group,) = _ints(node, "group", (1,), least=1)
    return Geometry(
        kernel=kernel,
        strides=(strides[0], strides[1]),
        pads=(pads[0], pads[1], pads[2], pads[3]),
        dilations=(dilations[0], dilations[1]),
        group=group,
    )


def _name(node: onnx_ir.Node) -> str:
    return str(node.name or node.outputs[0].name)


def _index(node: onnx_ir.Node, label: str) -> int:
    return OPERATORS[node.op_type].index(label)


def _float32(node: onnx_ir.Node, label: str, shape: tuple[int, ...]) -> Float32Array:
    return typed_parameter(node, _index(node, label), label, "float32", shape).astype(np.float32)


def _integer_basis(node: onnx_ir.Node) -> bool:
    value = node.attributes["integer_basis"].as_int()
    if value not in (0, 1):
        raise violation(node, f"integer_basis is {value}, expected 0 or 1")
    return bool(value)


def _bits(node: onnx_ir.Node, label: str, shape: tuple[int, ...], rank: int, axis: int = 0) -> int:
    if len(shape) != rank or not 1 <= shape[axis] <= MAX_BITS:
        axes = "[K]" if rank == 1 else "[O,K,bytes]"
        raise violation(node, f"{label} has shape {list(shape)}, expected {axes} with K in 1..{MAX_BITS}")
    return shape[axis]


def _weight_shape(node: onnx_ir.Node) -> tuple[int, ...]:
    shape = tuple(int(size) for size in node.attributes["weight_shape"].as_ints())
    axes = ("O", "C") if node.op_type == LINEAR else ("O", "C/group", "kh", "kw")
    if len(shape) != len(axes) or min(shape) < 1:
        raise violation(node, f"weight_shape is {list(shape)}, expected [{', '.join(axes)}] with sizes of 1 and more")
    return shape


def _ints(node: onnx_ir.Node, label: str, default: tuple[int, ...], least: int) -> tuple[int, ...]:
    attribute = node.attributes.get(label)
    if attribute is None:
        return default
    values = (attribute.as_int(),) if label == "group" else tuple(attribute.as_ints())
    if len(values) != len(default) or min(values) < least:
        found = values[0] if label == "group" else list(values)
        expected = f"{len(default)} integer{'s'[: len(default) - 1]}"
        raise violation(node, f"{label} is {found}, expected {expected} of {least} or more")
    return values


def _check_scale(node: onnx_ir.Node, scale: Float32Array, offset: Float32Array, integer: bool) -> None:
    if not integer:
        if (scale != 1).any():
            raise violation(node, f"integer_basis is 0 and scale is {_worst(scale, scale != 1)}, expected 1")
        return
    if (offset != 0).any():
        raise violation(node, f"integer_basis is 1 and offset is {_worst(offset, offset != 0)}, expected 0")
    mantissa, exponent = np.frexp(scale.astype(np.float64))
    # Times an 8-bit integer the scale stays a normal float32 in this range, and every product is exact.
    bad = (mantissa <= 0) | (np.ldexp(mantissa, SCALE_BITS) % 1 != 0) | (exponent < -100) | (exponent > 100)
    if bad.any():
        raise violation(
            node,
            f"integer_basis is 1 and scale is {_worst(scale, bad)}, expected a positive number of at most "
            f"{SCALE_BITS} significant bits, between 2**-100 and 2**100",
        )


def _check_integers(node: onnx_ir.Node, basis: Float32Array) -> None:
    if (basis != np.round(basis)).any():
        value = _worst(basis, basis != np.round(basis))
        raise violation(node, f"integer_basis is 1 and basis has {value}, expected integers")


def _worst(values: Float32Array, wrong: npt.NDArray[np.bool_]) -> float:
    return float(values[wrong].flat[0])
