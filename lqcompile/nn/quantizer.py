"""The learned quantizer: a basis per row, trained by QEM inside the forward pass (LQ-Nets, section 3)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lqcompile.integer_basis import snap_basis
from lqcompile.nn.coding import Coding, check_bits
from lqcompile.nn.qem import (
    Levels,
    Statistics,
    is_singular,
    quantize_exact,
    quantize_with_statistics,
    quantize_with_statistics_functional,
    solve_basis,
    sorted_levels,
)

DECAY = 0.9
"""Exponential average of the basis (paper, section 3.2)."""


class StraightThrough(torch.autograd.Function):
    """Passes the quantized value on; its gradient is that of the identity, or of ``min(x, top)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, top: Tensor | None) -> Tensor:
        """`quantized`; `top` is float[] or None for the identity."""
        ctx.has_top = top is not None
        if top is not None:
            # x is the output of a ReLU, which keeps it alive anyway: cheaper than a mask of our own.
            ctx.save_for_backward(x, top)
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """Gradient of `x` alone."""
        (grad,) = grad_outputs
        if not ctx.has_top:
            return grad, None, None
        x, top = ctx.saved_tensors
        if torch.compiler.is_compiling():
            return grad * (x <= top), None, None
        # Comparing into a float tensor is vectorised, a bool mask is not.
        mask = torch.le(x, top, out=torch.empty_like(grad))
        return mask.mul_(grad), None, None


class LevelQuantizer(nn.Module):
    """Rows of values quantized to the levels of a learned basis.

    In training mode each call quantizes with the current basis, then moves the basis towards the least-squares one by a
    zero-debiased exponential average. In evaluation mode, and once the basis is snapped to integers, the basis stays.

    Args:
        basis: float[C, K], the initial basis.
        symmetric: bits are -1/+1 (weights) instead of 0/1 (activations).

    Attributes:
        basis: float32[C, K]; integers once `integer` is set.
        scale: float32[C]; ones until then. The basis vectors are ``basis * scale``.
        integer: the basis is snapped and no longer learns.
        integer_required: the basis must be snapped before export (``basis="int8"``).
        singular: int64[], how often the least squares of activations were singular; their ridge then kept the basis.
    """

    basis: Tensor
    scale: Tensor
    updates: Tensor
    singular: Tensor

    def __init__(self, basis: Tensor, *, symmetric: bool) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.integer = False
        self.integer_required = False
        self.register_buffer("basis", basis.float())
        self.register_buffer("scale", torch.ones(len(basis), device=basis.device))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64, device=basis.device))
        self.register_buffer("singular", torch.zeros_like(self.updates), persistent=False)

    @property
    def bits(self) -> int:
        """Bits per code."""
        return self.basis.shape[1]

    def vectors(self) -> Tensor:
        """The basis vectors in float64: float64[C, K]."""
        return self.basis.double() * self.scale.double()[:, None]

    def levels(self) -> Levels:
        """Sorted levels, thresholds and codes of every row."""
        return sorted_levels(self.vectors(), self.symmetric)

    def coding(self) -> Coding:
        """What the codes stand for."""
        return Coding(self.basis.clone(), self.scale.clone(), torch.zeros_like(self.scale), self.integer)

    def quantize_rows(self, rows: Tensor) -> Tensor:
        """Quantize float32[C, N] without gradient, learning when in training mode."""
        levels = self.levels()
        if not self.training or self.integer:
            return quantize_exact(rows, levels)
        if torch.compiler.is_compiling():
            quantized, statistics = quantize_with_statistics_functional(rows, levels)
        else:
            quantized, statistics = quantize_with_statistics(rows, levels)
        self.learn(self.reduce(statistics), levels)
        return quantized

    def learn(self, statistics: Statistics, levels: Levels) -> None:
        """Move the basis towards the least-squares one for these statistics.

        A zero-debiased average after t updates is ``v += (target - v) * (1 - d) / (1 - d**t)``: the first replaces v.
        """
        target = solve_basis(statistics, levels, self.basis, self.symmetric)
        if not self.symmetric:
            self.singular += is_singular(statistics, levels)
        self.updates += 1
        rate = (1 - DECAY) / (1 - DECAY ** self.updates.double())
        self.basis.copy_(self.basis.double() + (target - self.basis.double()) * rate)

    def refit(self, statistics: Statistics, levels: Levels) -> float:
        """Replace the basis by the least-squares one; returns the largest change relative to the largest entry."""
        target = solve_basis(statistics, levels, self.basis, self.symmetric)
        change = (target - self.basis).abs().max() / target.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        self.basis.copy_(target)
        return float(change)

    @torch.no_grad()
    def snap(self, limit: int) -> None:
        """Snap the basis to integers times one scale and freeze it; see `lqcompile.integer_basis`.

        Args:
            limit: largest sum of magnitudes of a row.

        Raises:
            EncodingError: the basis is not finite, or `limit` is too small.
        """
        snapped = snap_basis(self.vectors().cpu().numpy(), limit, nonnegative=not self.symmetric)
        self.basis.copy_(torch.from_numpy(snapped.integers))
        self.scale.copy_(torch.from_numpy(snapped.scale))
        self.integer = True

    def reduce(self, statistics: Statistics) -> Statistics:
        """Sum over the ranks of the default process group, so that every rank solves the same system.

        Weights are equal on all ranks already and are left as they are.
        """
        if self.symmetric or not (dist.is_available() and dist.is_initialized()):
            return statistics
        both = torch.cat(statistics)
        dist.all_reduce(both)
        return Statistics(*both.chunk(2))

    def get_extra_state(self) -> Tensor:
        """Part of `state_dict`: whether the basis is snapped."""
        return torch.tensor(self.integer)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore what `get_extra_state` saved."""
        self.integer = bool(state)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"bits={self.bits}" + (", integer" if self.integer else "")


class LQActivation(LevelQuantizer):
    """Quantizes activations to ``K = bits`` learned 0/1 basis vectors, one basis per layer.

    It follows a ReLU and does not replace it: a value at or below the first threshold, hence any negative one, becomes
    level 0, which is 0. The gradient is that of ``min(x, top level)``.

    Args:
        bits: 1 to 4.

    Raises:
        QuantizationError: `bits` out of range.

    Source: LQ-Nets, section 3.3; initial basis as in the authors' code.
    """

    def __init__(self, bits: int = 2) -> None:
        check_bits("act_bits", bits)
        step = 0.6745 * 2 / ((1 << bits) - 1)
        super().__init__(step * 2.0 ** torch.arange(bits)[None, :], symmetric=False)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize float[any] to the learned levels, same dtype and memory format."""
        dense = x if x.is_contiguous() or _is_channels_last(x) else x.contiguous()
        values = dense.float() if dense.dtype != torch.float32 else dense
        top = self.levels().values[0, -1]
        with torch.no_grad():
            if _is_channels_last(values) and not values.is_contiguous():
                flat = values.permute(0, 2, 3, 1).reshape(1, -1)
                n, c, h, w = values.shape
                quantized = self.quantize_rows(flat).view(n, h, w, c).permute(0, 3, 1, 2)
            else:
                quantized = self.quantize_rows(values.reshape(1, -1)).view(values.shape)
        result: Tensor = StraightThrough.apply(x, quantized.to(x.dtype), top)  # type: ignore[no-untyped-call]
        return result


class LQWeight(LevelQuantizer):
    """Quantizes weights to ``K = bits`` learned -1/+1 basis vectors per output channel; the gradient is the identity.

    Args:
        bits: 1 to 4.
        weight: float[O, ...], for the shape and device; initial basis as in the authors' code.

    Raises:
        QuantizationError: `bits` out of range.
    """

    def __init__(self, bits: int, weight: Tensor) -> None:
        check_bits("weight_bits", bits)
        channels = weight.shape[0]
        fan_out = channels * weight[0, 0].numel()
        first = 0.6745 * (2 / fan_out) ** 0.5 / 2 ** (bits - 1)
        basis = first * 2.0 ** torch.arange(bits, device=weight.device).expand(channels, bits)
        super().__init__(basis, symmetric=True)

    def forward(self, weight: Tensor) -> Tensor:
        """Quantize float[O, ...] per output channel."""
        with torch.no_grad():
            quantized = self.quantize_rows(weight.detach().float().flatten(1)).view(weight.shape)
        quantized = quantized.to(weight.dtype)
        result: Tensor = StraightThrough.apply(weight, quantized, None)  # type: ignore[no-untyped-call]
        return result

    @torch.no_grad()
    def encode(self, weight: Tensor) -> tuple[Tensor, Coding]:
        """Codes int64[O, M] of a weight float[O, ...] with the current basis, and what they stand for."""
        levels = self.levels()
        rows = weight.flatten(1)
        index = torch.zeros(rows.shape, dtype=torch.int64, device=weight.device)
        for threshold in levels.thresholds.unbind(1):
            index += rows > threshold[:, None]
        return levels.codes.gather(1, index), self.coding()


def _is_channels_last(x: Tensor) -> bool:
    return x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
