"""Torch operators that stand for ONNX nodes in an exported program, and their translation.

Each has a reference implementation, so a frozen model also runs in torch; the translation table gives each its plain
node. Signatures repeat the inputs and attributes of docs/onnx-contract.md, some of which only the file needs.
"""

# ruff: noqa: ARG001

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from onnxscript import opset21
from onnxscript.values import Opset
from torch import Tensor

from lqcompile.graph.schema import DOMAIN, VERSION, register

register()

_LQ = Opset(DOMAIN, VERSION)

OPSET = 21
"""Version of the standard operators in exported files."""


@torch.library.custom_op("lqcompile::lq_quantize", mutates_args=())
def lq_quantize(
    x: Tensor,
    thresholds: Tensor,
    levels: Tensor,
    basis: Tensor,
    codes: Tensor,
    offset: Tensor,
    scale: Tensor,
    integer_basis: int,
) -> Tensor:
    """``levels[#(x > thresholds)]``: node LQQuantize."""
    return levels[(x.unsqueeze(-1) > thresholds).sum(-1)]


@lq_quantize.register_fake
def _(x: Tensor, *_args: object) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("lqcompile::lq_conv2d", mutates_args=())
def lq_conv2d(
    x: Tensor,
    planes: Tensor,
    basis: Tensor,
    offset: Tensor,
    bias: Tensor,
    scale: Tensor,
    weight_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    integer_basis: int,
) -> Tensor:
    """Convolution with weights from bit planes: node LQConv; `pads` is top, left, bottom, right."""
    weight = unpack_weight(planes, basis, offset, scale, weight_shape)
    top, left, bottom, right = pads
    return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, tuple(strides), 0, tuple(dilations), group)


@lq_conv2d.register_fake
def _(
    x: Tensor,
    planes: Tensor,
    basis: Tensor,
    offset: Tensor,
    bias: Tensor,
    scale: Tensor,
    weight_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    integer_basis: int,
) -> Tensor:
    top, left, bottom, right = pads
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(padded, x.new_empty(tuple(weight_shape)), bias, tuple(strides), 0, tuple(dilations), group)


@torch.library.custom_op("lqcompile::lq_linear", mutates_args=())
def lq_linear(
    x: Tensor,
    planes: Tensor,
    basis: Tensor,
    offset: Tensor,
    bias: Tensor,
    scale: Tensor,
    weight_shape: Sequence[int],
    integer_basis: int,
) -> Tensor:
    """Product with weights from bit planes: node LQLinear."""
    return F.linear(x, unpack_weight(planes, basis, offset, scale, weight_shape), bias)


@lq_linear.register_fake
def _(
    x: Tensor,
    planes: Tensor,
    basis: Tensor,
    offset: Tensor,
    bias: Tensor,
    scale: Tensor,
    weight_shape: Sequence[int],
    integer_basis: int,
) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight_shape[0]))


@torch.library.custom_op("lqcompile::quantize_linear", mutates_args=())
def quantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Standard QuantizeLinear per tensor; the dtype of `zero_point` is that of the result."""
    limits = torch.iinfo(zero_point.dtype)
    return (torch.round(x / scale) + zero_point).clamp(limits.min, limits.max).to(zero_point.dtype)


@quantize_linear.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.custom_op("lqcompile::dequantize_linear", mutates_args=())
def dequantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Standard DequantizeLinear: per tensor for a scalar scale, otherwise along axis 0."""
    shape = (-1, *([1] * (x.ndim - 1))) if scale.ndim else ()
    return (x.float() - zero_point.float().view(shape)) * scale.view(shape)


@dequantize_linear.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=scale.dtype)


@torch.library.custom_op("lqcompile::gemm", mutates_args=())
def gemm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``x @ weight.T + bias`` of matrices: standard Gemm with transB=1."""
    return F.linear(x, weight, bias)


@gemm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0]))


def unpack_weight(planes: Tensor, basis: Tensor, offset: Tensor, scale: Tensor, weight_shape: Sequence[int]) -> Tensor:
    """Weights from bit planes: uint8[O, Kw, ceil(M / 8)] -> float32[weight_shape], as docs/onnx-contract.md defines."""
    shifts = torch.arange(8, dtype=torch.uint8, device=planes.device)
    bits = ((planes[..., None] >> shifts) & 1).flatten(2)
    length = 1
    for size in weight_shape[1:]:
        length *= size
    signs = bits[..., :length].float() * 2 - 1
    flat = (signs * basis[..., None]).sum(1) * scale[:, None] + offset[:, None]
    return flat.reshape(tuple(weight_shape))


def _translate_quantize(
    x: Any, thresholds: Any, levels: Any, basis: Any, codes: Any, offset: Any, scale: Any, integer_basis: int
) -> Any:
    return _LQ.LQQuantize(x, thresholds, levels, basis, codes, offset, scale, integer_basis=integer_basis)


def _translate_conv(
    x: Any,
    planes: Any,
    basis: Any,
    offset: Any,
    bias: Any,
    scale: Any,
    weight_shape: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    integer_basis: int,
) -> Any:
    return _LQ.LQConv(
        x,
        planes,
        basis,
        offset,
        bias,
        scale,
        weight_shape=list(weight_shape),
        strides=list(strides),
        pads=list(pads),
        dilations=list(dilations),
        group=group,
        integer_basis=integer_basis,
    )


def _translate_linear(
    x: Any,
    planes: Any,
    basis: Any,
    offset: Any,
    bias: Any,
    scale: Any,
    weight_shape: Sequence[int],
    integer_basis: int,
) -> Any:
    return _LQ.LQLinear(
        x, planes, basis, offset, bias, scale, weight_shape=list(weight_shape), integer_basis=integer_basis
    )


def _translate_quantize_linear(x: Any, scale: Any, zero_point: Any) -> Any:
    return opset21.QuantizeLinear(x, scale, zero_point)


def _translate_dequantize_linear(x: Any, scale: Any, zero_point: Any) -> Any:
    return opset21.DequantizeLinear(x, scale, zero_point, axis=0)


def _translate_gemm(x: Any, weight: Any, bias: Any) -> Any:
    return opset21.Gemm(x, weight, bias, transB=1)


_OPS = torch.ops.lqcompile
TRANSLATION: dict[Callable[..., Any], Callable[..., Any]] = {
    _OPS.lq_quantize.default: _translate_quantize,
    _OPS.lq_conv2d.default: _translate_conv,
    _OPS.lq_linear.default: _translate_linear,
    _OPS.quantize_linear.default: _translate_quantize_linear,
    _OPS.dequantize_linear.default: _translate_dequantize_linear,
    _OPS.gemm.default: _translate_gemm,
}
"""Custom translation table for `torch.onnx.export`: one plain node for each operator."""
