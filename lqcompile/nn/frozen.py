"""Frozen layers: the inference form of a quantized model, with packed planes and integers instead of float weights."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from lqcompile.encoding import code_bits, pack_planes
from lqcompile.errors import QuantizationError
from lqcompile.nn import ops
from lqcompile.nn.coding import Coding
from lqcompile.nn.int8 import Int8Activation, Int8Conv2d, Int8Linear, weight_scale
from lqcompile.nn.layers import LQConv2d, LQLinear
from lqcompile.nn.methods import ActivationQuantizer
from lqcompile.nn.quantizer import LevelQuantizer


def freeze(model: nn.Module) -> nn.Module:
    """A copy of `model` on the CPU, in evaluation mode and float32, with every quantized layer in its frozen form.

    Raises:
        QuantizationError: a basis or range is not finite, or must be snapped first (``basis="int8"``); names the layer.
    """
    frozen = copy.deepcopy(model).cpu().float().eval()
    _check(frozen)
    replaced = _freeze_layer(frozen)
    if replaced is not None:
        return replaced
    memo: dict[nn.Module, nn.Module] = {}
    for parent in list(frozen.modules()):
        for name, child in list(parent.named_children()):
            if child not in memo:
                layer = _freeze_layer(child)
                if layer is None:
                    continue
                memo[child] = layer
            setattr(parent, name, memo[child])
    return frozen


class FrozenActivation(nn.Module):
    """A quantizer of activations as the operator LQQuantize."""

    def __init__(self, quantizer: ActivationQuantizer) -> None:
        super().__init__()
        levels, coding = quantizer.levels(), quantizer.coding()
        self.register_buffer("thresholds", levels.thresholds[0])
        self.register_buffer("levels", levels.values[0])
        self.register_buffer("codes", levels.codes[0].to(torch.uint8))
        self.register_buffer("basis", coding.basis[0])
        self.register_buffer("scale", coding.scale[0])
        self.register_buffer("offset", coding.offset[0])
        self.integer_basis = int(coding.integer)

    def forward(self, x: Tensor) -> Tensor:
        """float32[any] -> float32[any]."""
        result: Tensor = ops.lq_quantize(
            x, self.thresholds, self.levels, self.basis, self.codes, self.offset, self.scale, self.integer_basis
        )
        return result


class _FrozenWeights(nn.Module):
    """What the frozen LQ layers share: planes, basis, offset, bias, scale and the quantizer of the input."""

    def __init__(self, layer: LQConv2d | LQLinear) -> None:
        super().__init__()
        quantized = layer.act_quantizer
        self.act_quantizer = (
            FrozenActivation(quantized) if isinstance(quantized, ActivationQuantizer) else nn.Identity()
        )
        codes, coding = layer.weight_quantizer.encode(layer.weight.detach())
        self.register_buffer("planes", torch.from_numpy(pack_weight_planes(codes, layer.weight_quantizer.bits)))
        self.register_buffer("basis", coding.basis)
        self.register_buffer("scale", coding.scale)
        self.register_buffer("offset", coding.offset)
        bias = torch.zeros_like(coding.scale) if layer.bias is None else layer.bias.detach().clone()
        self.register_buffer("bias", bias)
        self.weight_shape = list(layer.weight.shape)
        self.integer_basis = int(coding.integer)


class FrozenConv2d(_FrozenWeights):
    """`LQConv2d` as the operator LQConv."""

    def __init__(self, layer: LQConv2d) -> None:
        super().__init__(layer)
        self.strides, self.dilations, self.group = list(layer.stride), list(layer.dilation), layer.groups
        self.pads = onnx_pads(layer)

    def forward(self, x: Tensor) -> Tensor:
        """float32[N, C, H, W] -> float32[N, O, H', W']."""
        result: Tensor = ops.lq_conv2d(
            self.act_quantizer(x),
            self.planes,
            self.basis,
            self.offset,
            self.bias,
            self.scale,
            self.weight_shape,
            self.strides,
            self.pads,
            self.dilations,
            self.group,
            self.integer_basis,
        )
        return result


class FrozenLinear(_FrozenWeights):
    """`LQLinear` as the operator LQLinear."""

    def forward(self, x: Tensor) -> Tensor:
        """float32[..., C] -> float32[..., O]."""
        result: Tensor = ops.lq_linear(
            self.act_quantizer(x),
            self.planes,
            self.basis,
            self.offset,
            self.bias,
            self.scale,
            self.weight_shape,
            self.integer_basis,
        )
        return result


class FrozenInt8Activation(nn.Module):
    """`Int8Activation` as QuantizeLinear and DequantizeLinear."""

    def __init__(self, observer: Int8Activation) -> None:
        super().__init__()
        scale, zero_point = observer.grid()
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point.to(torch.uint8))

    def forward(self, x: Tensor) -> Tensor:
        """float32[any] -> float32[any]."""
        result: Tensor = ops.dequantize_linear(
            ops.quantize_linear(x, self.scale, self.zero_point), self.scale, self.zero_point
        )
        return result


class FrozenInt8(nn.Module):
    """`Int8Conv2d` or `Int8Linear`: the layer itself, on an int8 weight and DequantizeLinear."""

    bias: Tensor | None
    scale: Tensor

    def __init__(self, layer: Int8Conv2d | Int8Linear) -> None:
        super().__init__()
        self.act_quantizer = FrozenInt8Activation(layer.act_quantizer)
        scale = weight_scale(layer.weight)
        rows = layer.weight.detach().flatten(1) / scale[:, None]
        integers = torch.round(rows).clamp(-127, 127).to(torch.int8)
        self.register_buffer("weight", integers.view(layer.weight.shape))
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", torch.zeros(len(scale), dtype=torch.int8))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())
        self.layer = layer
        layer.weight, layer.bias = nn.Parameter(torch.empty(0)), None
        layer.act_quantizer = Int8Activation()

    def forward(self, x: Tensor) -> Tensor:
        """As the layer."""
        weight = ops.dequantize_linear(self.weight, self.scale, self.zero_point)
        x = self.act_quantizer(x)
        if isinstance(self.layer, nn.Conv2d):
            convolved: Tensor = self.layer._conv_forward(x, weight, self.bias)
            return convolved
        bias = torch.zeros(len(self.scale)) if self.bias is None else self.bias
        rows = x if x.ndim == 2 else x.reshape(-1, x.shape[-1])
        product: Tensor = ops.gemm(rows, weight, bias)
        return product if x.ndim == 2 else product.reshape(*x.shape[:-1], product.shape[-1])


def pack_weight_planes(codes: Tensor, bits: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Bit planes of encoded weights: int64[O, M] -> uint8[O, Kw, ceil(M / 8)]."""
    planes = code_bits(codes.numpy(), bits)
    return pack_planes(planes.transpose(1, 0, 2)).view(np.uint8)


def onnx_pads(layer: nn.Conv2d) -> list[int]:
    """Padding as in ONNX: [top, left, bottom, right]. "same" puts the odd one last, as torch does."""
    if layer.padding == "valid":
        return [0, 0, 0, 0]
    if layer.padding == "same":
        totals = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [total // 2 for total in totals] + [total - total // 2 for total in totals]
    height, width = (int(size) for size in layer.padding)
    return [height, width, height, width]


def _freeze_layer(layer: nn.Module) -> nn.Module | None:
    if isinstance(layer, LQConv2d):
        return FrozenConv2d(layer)
    if isinstance(layer, LQLinear):
        return FrozenLinear(layer)
    if isinstance(layer, ActivationQuantizer):
        return FrozenActivation(layer)
    if isinstance(layer, Int8Conv2d | Int8Linear):
        return FrozenInt8(layer)
    return None


def _check(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, LevelQuantizer) and module.integer_required and not module.integer:
            raise QuantizationError(
                f"layer {name!r}: found a float basis, expected integers (basis='int8'); call lqcompile.nn.snap first"
            )
        if isinstance(module, ActivationQuantizer):
            _check_finite(name, module.coding())
        if isinstance(module, LQConv2d | LQLinear):
            _check_finite(f"{name}.weight_quantizer", module.weight_quantizer.encode(module.weight)[1])
        if isinstance(module, Int8Activation) and not torch.isfinite(module.high - module.low):
            raise QuantizationError(
                f"layer {name!r}: found the range {float(module.low)}..{float(module.high)}, expected finite ends; "
                "check the training run"
            )


def _check_finite(name: str, coding: Coding) -> None:
    if not coding.is_finite():
        raise QuantizationError(
            f"layer {name!r}: found NaN or infinity in its basis, expected finite values; check the training run"
        )
