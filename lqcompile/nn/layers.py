"""Convolution and linear layers whose weights and input are learned low-bit codes."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from lqcompile.errors import QuantizationError
from lqcompile.nn.methods import MethodName, find_method

LayerT = TypeVar("LayerT", bound=nn.Conv2d | nn.Linear)


class LQConv2d(nn.Conv2d):
    """Conv2d with quantized weights, and a quantizer of its own for its input.

    Takes the arguments of `torch.nn.Conv2d` and three more.

    Args:
        in_channels: as in Conv2d, like all that follow.
        out_channels: .
        kernel_size: .
        weight_bits: 1 to 4.
        act_bits: 1 to 4, or None for float activations (weight-only).
        method: how both are quantized and trained; see `lqcompile.nn.methods`.
        **kwargs: stride, padding, dilation, groups, bias, device, dtype.

    Raises:
        QuantizationError: bits out of range, an unknown method, or padding that is not with zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        weight_bits: int = 2,
        act_bits: int | None = 2,
        method: MethodName = "lq",
        **kwargs: object,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, **kwargs)  # type: ignore[arg-type]
        require_zero_padding(self, "LQConv2d")
        self.act_quantizer = _input_quantizer(method, act_bits)
        self.weight_quantizer = find_method(method).weight(weight_bits, self.weight)

    @classmethod
    def from_float(
        cls, module: nn.Conv2d, weight_bits: int, act_bits: int | None, method: MethodName = "lq"
    ) -> LQConv2d:
        """A quantized layer that shares the parameters of `module`.

        Raises:
            QuantizationError: as the constructor.
        """
        require_zero_padding(module, "Conv2d")
        layer = cls(**conv_arguments(module), weight_bits=weight_bits, act_bits=act_bits, method=method)
        layer.weight_quantizer = find_method(method).weight(weight_bits, module.weight)
        return adopt(layer, module)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - named as in torch
        """float[N, C, H, W] -> float[N, O, H', W']."""
        result: Tensor = self._conv_forward(self.act_quantizer(input), self.weight_quantizer(self.weight), self.bias)
        return result


class LQLinear(nn.Linear):
    """Linear with quantized weights, and a quantizer of its own for its input; see `LQConv2d`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        weight_bits: int = 2,
        act_bits: int | None = 2,
        method: MethodName = "lq",
        **kwargs: object,
    ) -> None:
        super().__init__(in_features, out_features, **kwargs)  # type: ignore[arg-type]
        self.act_quantizer = _input_quantizer(method, act_bits)
        self.weight_quantizer = find_method(method).weight(weight_bits, self.weight)

    @classmethod
    def from_float(
        cls, module: nn.Linear, weight_bits: int, act_bits: int | None, method: MethodName = "lq"
    ) -> LQLinear:
        """A quantized layer that shares the parameters of `module`."""
        layer = cls(**linear_arguments(module), weight_bits=weight_bits, act_bits=act_bits, method=method)
        layer.weight_quantizer = find_method(method).weight(weight_bits, module.weight)
        return adopt(layer, module)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - named as in torch
        """float[..., C] -> float[..., O]."""
        return F.linear(self.act_quantizer(input), self.weight_quantizer(self.weight), self.bias)


def conv_arguments(module: nn.Conv2d) -> dict[str, Any]:
    """Constructor arguments of a convolution of the same shape, on the meta device: no weights are made."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    return {name: getattr(module, name) for name in names} | {"bias": module.bias is not None, "device": "meta"}


def linear_arguments(module: nn.Linear) -> dict[str, Any]:
    """Constructor arguments of a linear layer of the same shape, on the meta device."""
    names = ("in_features", "out_features")
    return {name: getattr(module, name) for name in names} | {"bias": module.bias is not None, "device": "meta"}


def adopt(layer: LayerT, module: nn.Conv2d | nn.Linear) -> LayerT:
    """Give `layer` the parameters, mode and device of `module`; the parameters are shared."""
    layer.weight, layer.bias = module.weight, module.bias
    layer.train(module.training).to(module.weight.device)
    return layer


def require_zero_padding(module: nn.Conv2d, subject: str) -> None:
    """Refuse padding modes that ONNX Conv does not have.

    Raises:
        QuantizationError: naming the mode.
    """
    if module.padding_mode != "zeros":
        raise QuantizationError(
            f"{subject}: padding_mode={module.padding_mode!r}, expected 'zeros'; "
            "pad with nn.ReflectionPad2d or its like before the layer, or name the layer in skip"
        )


def _input_quantizer(method: MethodName, act_bits: int | None) -> nn.Module:
    return nn.Identity() if act_bits is None else find_method(method).activation(act_bits)
