"""Contractions of the integer form: ConvInteger and the canonical float64 epilogue.

Every ConvInteger has uint8 on both sides: with int8 weights the x86 kernels of ONNX Runtime without VNNI add pairs of
products in 16 bits and saturate (ONNX Runtime documentation, "Quantize ONNX models", section on reduce_range).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.encoding import code_bits
from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import AnyQuantizer, Contraction, Geometry, Region, is_integer
from lqcompile.graph.specs import Int8Weights, LowBitWeights, Quantizer, UniformQuantizer
from lqcompile.integer_form.writer import GraphWriter
from lqcompile.reference.execute import real_act_basis, real_basis
from lqcompile.reference.values import integer_levels

INT32_MAX = (1 << 31) - 1

Integers = tuple[str, tuple[int, ...]]
"""The tensor of a region's integers, and its shape of one sample."""


def write_float_contraction(writer: GraphWriter, contraction: Contraction, x: str) -> str:
    """Write a convolution of the float32 tensor `x`, float32 like ONNX Conv; returns it as float64."""
    kernels = contraction.weights.dequantize()
    kernels = kernels.reshape(len(kernels), -1, *contraction.geometry.kernel)
    y = writer.node("Conv", x, writer.constant(kernels), **_attributes(contraction.geometry))
    return writer.cast(y, np.float64)


def write_exact_contraction(
    writer: GraphWriter, region: Region, contraction: Contraction, quantizer: AnyQuantizer | None, x: str
) -> tuple[str, Integers]:
    """Write an exact contraction.

    Args:
        writer: to add nodes to.
        region: for the error.
        contraction: the operation of the region.
        quantizer: whose codes `x` holds.
        x: level indices or 8-bit codes, [N, C, H, W].

    Returns:
        The tensor y in float64, and the integers: T [O, OH, OW] or S_ij [Kw, Ka, O, OH, OW] per sample, int32.

    Raises:
        UnsupportedError: the integers may not fit int32.
    """
    weights, geometry = contraction.weights, contraction.geometry
    if isinstance(weights, Int8Weights) and isinstance(quantizer, UniformQuantizer):
        kernels = weights.values.reshape(len(weights.values), -1, *geometry.kernel)
        zero_point = quantizer.zero_point
        if quantizer.dtype == "int8":
            shifted = writer.node("Add", writer.cast(x, np.int32), writer.constant(np.int32(128)))
            x, zero_point = writer.cast(shifted, np.uint8), zero_point + 128
        _check_range(region, max(zero_point, 255 - zero_point), kernels)
        total = _convolve(writer, x, kernels, geometry, zero_point)
        return _scaled(writer, total, weights, quantizer), (total, contraction.out_shape)
    if not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
        raise TypeError(f"{type(weights).__name__} on {type(quantizer).__name__} is not an exact contraction")
    indices = writer.cast(x, np.int32)
    if is_integer(contraction, quantizer):
        table = integer_levels(quantizer)
        kernels = weights.integers().reshape(len(weights.planes), -1, *geometry.kernel)
        _check_range(region, int(table.max()), kernels)
        levels = writer.node("Gather", writer.constant(table.astype(np.uint8)), indices)
        total = _convolve(writer, levels, kernels, geometry)
        return _scaled(writer, total, weights, quantizer), (total, contraction.out_shape)
    bits = code_bits(quantizer.codes, quantizer.bits)
    planes = [writer.node("Gather", writer.constant(row), indices) for row in bits]
    return _combined(writer, contraction, weights, quantizer, planes)


def _combined(
    writer: GraphWriter, contraction: Contraction, weights: LowBitWeights, quantizer: Quantizer, planes: list[str]
) -> tuple[str, Integers]:
    """``sum_i v_i * (sum_j u_j * S_ij)``, offsets last, from the activation planes; as `write_exact_contraction`."""
    geometry = contraction.geometry
    outputs, size = contraction.out_shape[0], contraction.out_shape[1:]
    signs = (weights.bits_array().astype(np.int8) * 2 - 1).astype(np.int8)
    kernels = signs.reshape(outputs * weights.bits, -1, *geometry.kernel)
    split = (outputs, weights.bits, *size)
    sums = [writer.reshape(_convolve(writer, plane, kernels, geometry), split) for plane in planes]
    inside = writer.constant(np.ones((1, *contraction.in_shape), dtype=np.uint8)) if quantizer.offset else None
    valid = None if inside is None else writer.reshape(_convolve(writer, inside, kernels, geometry), split)
    basis = writer.constant(real_basis(weights)[:, :, None, None])
    products = writer.node("Mul", _inner(writer, sums, valid, quantizer), basis)
    terms = [writer.node("Gather", products, writer.constant(np.int64(i)), axis=2) for i in range(weights.bits)]
    if weights.offset.any():
        group = geometry.group
        ones = np.ones((group, contraction.in_shape[0] // group, *geometry.kernel), dtype=np.int8)
        rows = [_convolve(writer, plane, ones, geometry) for plane in planes]
        count = None if inside is None else _convolve(writer, inside, ones, geometry)
        row = writer.reshape(_inner(writer, rows, count, quantizer), (group, 1, *size))
        offset = writer.constant(weights.offset.astype(np.float64).reshape(group, -1, 1, 1))
        terms.append(writer.reshape(writer.node("Mul", row, offset), contraction.out_shape))
    apart = [
        writer.reshape(writer.node("Transpose", s, perm=[0, 2, 1, 3, 4]), (weights.bits, 1, outputs, *size))
        for s in sums
    ]
    integers = writer.node("Concat", *apart, axis=2)
    return _ordered_sum(writer, terms), (integers, (weights.bits, quantizer.bits, outputs, *size))


def _inner(writer: GraphWriter, sums: list[str], column: str | None, quantizer: Quantizer) -> str:
    """``sum_j u_j * S_j``, then ``a0`` times `column`: float64."""
    units = [*real_act_basis(quantizer), np.float64(quantizer.offset)]
    used = sums if column is None else [*sums, column]
    terms = [
        writer.node("Mul", writer.cast(tensor, np.float64), writer.constant(np.float64(unit)))
        for tensor, unit in zip(used, units, strict=False)
    ]
    return _ordered_sum(writer, terms)


def _ordered_sum(writer: GraphWriter, terms: list[str]) -> str:
    """First to last."""
    total = terms[0]
    for term in terms[1:]:
        total = writer.node("Add", total, term)
    return total


def _scaled(writer: GraphWriter, total: str, weights: Int8Weights | LowBitWeights, quantizer: AnyQuantizer) -> str:
    """``T * (s_w * s_a)`` in float64."""
    scale = weights.scale.astype(np.float64) * np.float64(quantizer.scale)
    return writer.node("Mul", writer.cast(total, np.float64), writer.constant(scale[:, None, None]))


def _convolve(
    writer: GraphWriter, x: str, kernels: npt.NDArray[np.int8], geometry: Geometry, zero_point: int = 0
) -> str:
    """ConvInteger of uint8 `x` with int8 `kernels`, int32; pads with the zero point, the real value 0."""
    shifted = writer.constant((kernels.astype(np.int16) + 128).astype(np.uint8))
    points = writer.constant(np.uint8(zero_point)), writer.constant(np.uint8(128))
    return writer.node("ConvInteger", x, shifted, *points, **_attributes(geometry))


def _attributes(geometry: Geometry) -> dict[str, Any]:
    """Attributes of Conv and ConvInteger."""
    return {
        "kernel_shape": list(geometry.kernel),
        "strides": list(geometry.strides),
        "pads": list(geometry.pads),
        "dilations": list(geometry.dilations),
        "group": geometry.group,
    }


def _check_range(region: Region, largest: int, kernels: npt.NDArray[np.int8]) -> None:
    """The sums must fit int32 on every backend."""
    bound = largest * int(np.abs(kernels.astype(np.int64)).sum(axis=(1, 2, 3)).max())
    if bound > INT32_MAX:
        raise UnsupportedError(
            f"node '{region.name}' ({region.op_type}): its integer sums may reach {bound}, expected at most "
            f"{INT32_MAX} (int32); use narrower bases or fewer input channels"
        )
