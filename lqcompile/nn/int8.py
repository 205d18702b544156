"""Layers in 8 bits for the first and last place of a network: uint8 input per tensor, int8 weights per output channel.

They train with fake quantization and export as standard ONNX QuantizeLinear and DequantizeLinear nodes
(docs/onnx-contract.md, "8-bit layers").
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lqcompile.nn.coding import round_significand
from lqcompile.nn.layers import adopt, conv_arguments, linear_arguments, require_zero_padding

RANGE_DECAY = 0.99
"""Exponential average of the input range during training."""


class _FakeQuantize(torch.autograd.Function):
    """Rounds to a grid; the gradient passes where the value is inside the grid (straight-through estimator).

    The backward pass finds out anew which values are: the input is kept by the layer in front, or is a weight, so that
    saving it costs nothing, and a mask would cost a byte per value.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, low: int, high: int) -> Tensor:
        grid = torch.round(x / scale) + zero_point
        ctx.save_for_backward(x, scale, zero_point)
        ctx.low, ctx.high = low, high
        return (grid.clamp(low, high) - zero_point) * scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, scale, zero_point = ctx.saved_tensors
        grid = torch.round(x / scale) + zero_point
        return grad_outputs[0] * ((grid >= ctx.low) & (grid <= ctx.high)), None, None, None, None


class Int8Activation(nn.Module):
    """Fake-quantizes to uint8 with a scale and a zero point from the running range of the input, zero included.

    The first update takes the range as it is; later ones average it with `RANGE_DECAY`.
    """

    low: Tensor
    high: Tensor
    updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.ones(()))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.frozen = False

    @torch.no_grad()
    def observe(self, x: Tensor, *, average: bool = True) -> None:
        """Take the range of `x` in: averaged while training, as a union with what was seen when calibrating."""
        low, high = x.detach().float().aminmax()
        low, high = low.clamp_max(0.0), high.clamp_min(0.0)
        if dist.is_available() and dist.is_initialized():
            ends = torch.stack([-low, high])
            dist.all_reduce(ends, op=dist.ReduceOp.MAX)
            low, high = -ends[0], ends[1]
        first = self.updates == 0
        if average:
            new_low = self.low + (low - self.low) * (1 - RANGE_DECAY)
            new_high = self.high + (high - self.high) * (1 - RANGE_DECAY)
        else:
            new_low, new_high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.low.copy_(torch.where(first, low, new_low))
        self.high.copy_(torch.where(first, high, new_high))
        self.updates += 1

    def grid(self) -> tuple[Tensor, Tensor]:
        """Scale and zero point: float32[] with at most 16 significant bits, float32[] holding an integer in 0..255."""
        span = (self.high - self.low).clamp_min(1e-6)
        scale = round_significand(span / 255)
        zero_point = torch.round(-self.low / scale).clamp(0, 255)
        return scale, zero_point

    @contextmanager
    def kept_as_codes(self, quantized: Tensor) -> Iterator[None]:
        """What autograd keeps of `quantized` for the layer in the block are codes, a byte each, decoded when needed.

        In float32 only, where decoding is exact (`grid`); mixed precision keeps copies of two bytes anyway.
        """
        if quantized.dtype != torch.float32:
            yield
            return
        scale, zero_point = self.grid()
        # Not the tensor itself: autograd keeps the functions, and they would keep it.
        address, shape = quantized.data_ptr(), quantized.shape

        def pack(saved: Tensor) -> Tensor:
            if saved.data_ptr() != address or saved.shape != shape:
                return saved
            return (saved.detach() / scale + zero_point).to(torch.uint8)

        def unpack(kept: Tensor) -> Tensor:
            return (kept - zero_point) * scale if kept.dtype == torch.uint8 else kept

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield

    def forward(self, x: Tensor) -> Tensor:
        """float[any] -> float[any] on the grid."""
        if self.training and not self.frozen:
            self.observe(x)
        result: Tensor = _FakeQuantize.apply(x, *self.grid(), 0, 255)  # type: ignore[no-untyped-call]
        return result

    def get_extra_state(self) -> Tensor:
        """Part of `state_dict`: whether the range is frozen."""
        return torch.tensor(self.frozen)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` saved."""
        self.frozen = bool(state)


class Int8Conv2d(nn.Conv2d):
    """Conv2d with int8 weights (per output channel, symmetric) and uint8 input; arguments of `torch.nn.Conv2d`.

    Raises:
        QuantizationError: padding that is not with zeros.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        require_zero_padding(self, "Int8Conv2d")
        self.act_quantizer = Int8Activation()

    @classmethod
    def from_float(cls, module: nn.Conv2d) -> Int8Conv2d:
        """An 8-bit layer that shares the parameters of `module`.

        Raises:
            QuantizationError: padding that is not with zeros.
        """
        require_zero_padding(module, "Conv2d")
        return adopt(cls(**conv_arguments(module)), module)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - named as in torch
        """float[N, C, H, W] -> float[N, O, H', W']."""
        quantized, weight = self.act_quantizer(input), fake_quantize_weight(self.weight)
        with self.act_quantizer.kept_as_codes(quantized):
            result: Tensor = self._conv_forward(quantized, weight, self.bias)
        return result


class Int8Linear(nn.Linear):
    """Linear with int8 weights (per output channel, symmetric) and uint8 input; arguments of `torch.nn.Linear`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.act_quantizer = Int8Activation()

    @classmethod
    def from_float(cls, module: nn.Linear) -> Int8Linear:
        """An 8-bit layer that shares the parameters of `module`."""
        return adopt(cls(**linear_arguments(module)), module)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - named as in torch
        """float[..., C] -> float[..., O]."""
        quantized, weight = self.act_quantizer(input), fake_quantize_weight(self.weight)
        with self.act_quantizer.kept_as_codes(quantized):
            return F.linear(quantized, weight, self.bias)


def weight_scale(weight: Tensor) -> Tensor:
    """Scale of each output channel: float32[O], the largest magnitude over 127."""
    return round_significand(weight.detach().float().flatten(1).abs().amax(1).clamp_min(1e-12) / 127)


def fake_quantize_weight(weight: Tensor) -> Tensor:
    """int8 grid of every output channel, as floats; the gradient is straight-through."""
    scale = weight_scale(weight).view(-1, *([1] * (weight.ndim - 1)))
    zero_point = torch.zeros((), device=weight.device)
    result: Tensor = _FakeQuantize.apply(weight, scale, zero_point, -127, 127)  # type: ignore[no-untyped-call]
    return result
