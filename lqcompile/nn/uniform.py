"""Uniform grids with a trained step: what LSQ and PACT share, and the best step for given values.

A uniform quantizer is the code form with the basis ``step * (1, 2, 4, ...)``: level l is ``(low + l - shift) * step``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lqcompile.nn.coding import Coding, check_bits, round_significand
from lqcompile.nn.qem import Levels, quantize_exact

MIN_STEP = 2.0**-60
"""A step stays above it: a scale that rounds to nothing has no place in an exported file."""


FIT_VALUES = 1 << 15
"""About as many activations decide on a step."""


class _UniformQuantize(torch.autograd.Function):
    """``(clamp(round(x / step + shift), low, high) - shift) * step``, the rounding straight-through.

    The gradient of `x` passes inside the grid. That of `step` is of the end of the grid for what lies outside, and with
    `inner` also ``round(u) - u``, ``u = x / step + shift``, for what lies inside (LSQ, equation 3).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, low: int, high: int, shift: float, inner: bool) -> Tensor:
        ctx.save_for_backward(x, step)
        ctx.grid = (low, high, shift, inner)
        return (x / step).add_(shift).round_().clamp_(low, high).sub_(shift).mul_(step)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        (grad,) = grad_outputs
        x, step = ctx.saved_tensors
        low, high, shift, inner = ctx.grid
        position = (x / step).add_(shift)
        nearest = position.clamp(low, high)
        inside = (position == nearest).to(grad.dtype)
        slope = nearest.sub_(shift).mul_(1 - inside)
        if inner:
            slope.add_((position.round() - position).mul_(inside))
        return grad * inside, (grad * slope).sum().view(step.shape), None, None, None, None


class _ScaleGradient(torch.autograd.Function):
    """Passes the value on and scales its gradient."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0] * ctx.factor, None


class _RoundStep(torch.autograd.Function):
    """A step as it is exported: positive, 16 significant bits; the gradient is straight-through."""

    @staticmethod
    def forward(ctx: Any, step: Tensor) -> Tensor:  # noqa: ARG004 - torch passes it
        return round_significand(step.abs().clamp_min(MIN_STEP))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:  # noqa: ARG004 - torch passes it
        return grad_outputs[0]


def round_step(step: Tensor) -> Tensor:
    """`step` made positive and rounded to 16 significant bits, straight-through: every level is exact in float32."""
    result: Tensor = _RoundStep.apply(step)  # type: ignore[no-untyped-call]
    return result


def scale_gradient(value: Tensor, factor: float) -> Tensor:
    """`value`, its gradient times `factor`."""
    result: Tensor = _ScaleGradient.apply(value, factor)  # type: ignore[no-untyped-call]
    return result


def quantize_uniform(x: Tensor, step: Tensor, low: int, high: int, shift: float = 0.0, *, inner: bool) -> Tensor:
    """Quantize to ``(l - shift) * step``, l in `low`..`high`; see `_UniformQuantize` for the gradients.

    Args:
        x: float[any].
        step: float[], positive.
        low: first level.
        high: last level.
        shift: 0.5 for a grid without a level at 0.
        inner: values inside the grid move the step too (LSQ); otherwise only those outside (PACT).
    """
    result: Tensor = _UniformQuantize.apply(x, step, low, high, shift, inner)  # type: ignore[no-untyped-call]
    return result


class UniformActivation(nn.Module, ABC):
    """Activations quantized to ``0, step, ..., (2**bits - 1) * step``; what LSQ and PACT have in common.

    It follows a ReLU. In evaluation mode a value on the middle between two levels gets the lower one, as in the file.

    Args:
        bits: 1 to 4.

    Attributes:
        started: int64[], 1 once data has set the step.

    Raises:
        QuantizationError: `bits` out of range.
    """

    started: Tensor

    def __init__(self, bits: int = 2) -> None:
        super().__init__()
        check_bits("act_bits", bits)
        self.bits = bits
        self.top = (1 << bits) - 1
        self.register_buffer("started", torch.zeros((), dtype=torch.int64))

    @abstractmethod
    def step(self) -> Tensor:
        """The step as it is exported: float32[]."""

    @abstractmethod
    def set_step(self, step: Tensor) -> None:
        """Start from `step`, float[]."""

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Start from the step of the smallest squared error on float[any]."""
        values = x.detach().float().flatten()
        # As many values as tell the step to a few in a thousand, spread over all of them.
        sample = values[:: max(1, len(values) // FIT_VALUES)]
        self.set_step(best_step(sample[None, :], 0, self.top)[0])
        self.started.fill_(1)

    @torch.no_grad()
    def levels(self) -> Levels:
        """Levels, thresholds and codes of the one row."""
        index = torch.arange(self.top + 1, device=self.started.device)
        values = (index * self.step())[None, :]
        return Levels(values, ((index[:-1] + 0.5) * self.step())[None, :], index[None, :])

    @torch.no_grad()
    def coding(self) -> Coding:
        """What the codes stand for: integers 1, 2, 4, ... times the step."""
        basis = 2.0 ** torch.arange(self.bits, device=self.started.device)[None, :]
        scale = self.step().reshape(1)
        return Coding(basis, scale, torch.zeros_like(scale), integer=True)

    def quantize_exact(self, x: Tensor) -> Tensor:
        """Quantize float[any] as the exported file does, without gradient."""
        return quantize_exact(x.float().reshape(1, -1), self.levels()).view(x.shape).to(x.dtype)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"bits={self.bits}"


def best_step(x: Tensor, low: int, high: int, shift: float = 0.0, *, points: int = 200) -> Tensor:
    """Step of the smallest squared error, per row: the baseline that any uniform quantizer is bound by.

    Tried are `points` steps on a logarithmic scale, from a hundredth of the one that reaches the largest magnitude to
    that one; around the best of them once more as many, a hundred times as dense.

    Args:
        x: float[C, N].
        low: first level, as in `quantize_uniform`.
        high: last level.
        shift: as there.
        points: steps tried in each of the two passes.

    Returns:
        float[C]; a row of zeros gets the smallest positive step.
    """
    reach = max(high - shift, shift - low)
    most = (x.abs().amax(1) / reach).clamp_min(MIN_STEP)
    steps = most[:, None] * torch.logspace(-2, 0, points, dtype=x.dtype, device=x.device)
    for ratio in (100 ** (1 / (points - 1)), 1.0):
        errors = torch.stack([_squared_error(x, step, low, high, shift) for step in steps.unbind(1)], 1)
        best = steps.gather(1, errors.argmin(1, keepdim=True))
        if ratio > 1:
            steps = best * ratio ** torch.linspace(-1, 1, points, dtype=x.dtype, device=x.device)
    return best[:, 0]


def _squared_error(x: Tensor, step: Tensor, low: int, high: int, shift: float) -> Tensor:
    column = step[:, None]
    return ((torch.round(x / column + shift).clamp(low, high) - shift) * column - x).square().sum(1)
