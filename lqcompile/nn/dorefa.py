"""DoReFa weights and PACT activations: uniform grids, the usual baseline of the years before LQ-Nets.

Sources: Zhou et al., "DoReFa-Net" (arXiv 1606.06160), section 2.3; Choi et al., "PACT: Parameterized Clipping
Activation for Quantized Neural Networks" (arXiv 1805.06085), section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lqcompile.nn.coding import Coding, check_bits, round_significand
from lqcompile.nn.quantizer import StraightThrough
from lqcompile.nn.uniform import UniformActivation, quantize_uniform, round_step

CLIP = 8.0
"""Initial end of the grid of `PACTActivation` (PACT, section 3.2: larger than the activations are at first)."""


class _Decay(torch.autograd.Function):
    """Passes a parameter on and adds the gradient of ``decay / 2 * value**2`` to its own."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.decay = decay
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (value,) = ctx.saved_tensors
        return grad_outputs[0] + ctx.decay * value, None


class PACTActivation(UniformActivation):
    """Activations on ``alpha * (0, ..., Q) / Q``, ``Q = 2**bits - 1``, with a trained end alpha.

    ``y = round(clamp(x, 0, alpha) Q / alpha) alpha / Q``. The gradient of x passes inside, that of alpha is 1 where
    x exceeds it, and `decay` times alpha: without that L2 penalty nothing makes alpha smaller.

    Args:
        bits: 1 to 4.
        decay: of the penalty ``decay / 2 * alpha**2``; the paper takes that of the weights.

    Raises:
        QuantizationError: `bits` out of range.
    """

    def __init__(self, bits: int = 2, decay: float = 5e-4) -> None:
        super().__init__(bits)
        self.decay = decay
        self.alpha = nn.Parameter(torch.tensor(CLIP))

    def step(self) -> Tensor:
        """The step as it is exported: float32[]."""
        return round_step(self.alpha / self.top)

    def set_step(self, step: Tensor) -> None:
        """Start from ``alpha = step * Q``, float[]."""
        self.alpha.copy_(step * self.top)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize float[any], same dtype."""
        if not self.training:
            return self.quantize_exact(x)
        alpha: Tensor = _Decay.apply(self.alpha, self.decay)  # type: ignore[no-untyped-call]
        return quantize_uniform(x.float(), round_step(alpha / self.top), 0, self.top, inner=False).to(x.dtype)


class DoReFaWeight(nn.Module):
    """Weights on ``(-Q, -Q + 2, ..., Q) / Q``, ``Q = 2**bits - 1``; one bit: the sign times the mean of ``|w|``.

    ``t = tanh(w) / max|tanh(w)|``, ``y = 2 round(Q (t + 1) / 2) / Q - 1``; the rounding is straight-through. Levels
    reach from -1 to 1 in every layer: batch normalization has to follow.

    Args:
        bits: 1 to 4.
        weight: float[O, ...]; not looked at, but given to every weight quantizer.

    Raises:
        QuantizationError: `bits` out of range.
    """

    def __init__(self, bits: int, weight: Tensor) -> None:  # noqa: ARG002 - as the other methods
        super().__init__()
        check_bits("weight_bits", bits)
        self.bits = bits
        self.top = (1 << bits) - 1

    def forward(self, weight: Tensor) -> Tensor:
        """Quantize float[O, ...], same dtype."""
        values = weight.float()
        normal = values if self.bits == 1 else _normalise(values)
        with torch.no_grad():
            quantized = (2 * self._index(values) - self.top) * self._scale(values)
        result: Tensor = StraightThrough.apply(normal, quantized, None)  # type: ignore[no-untyped-call]
        return result.to(weight.dtype)

    @torch.no_grad()
    def encode(self, weight: Tensor) -> tuple[Tensor, Coding]:
        """Codes int64[O, M] of a weight float[O, ...], and what they stand for."""
        values = weight.float()
        basis = (2.0 ** torch.arange(self.bits, device=weight.device)).expand(len(weight), self.bits)
        scale = self._scale(values).expand(len(weight))
        return self._index(values).flatten(1).long(), Coding(basis, scale, torch.zeros_like(scale), integer=True)

    def _index(self, values: Tensor) -> Tensor:
        if self.bits == 1:
            return (values > 0).float()
        return torch.round(self.top * (_normalise(values) + 1) / 2)

    def _scale(self, values: Tensor) -> Tensor:
        """Half the distance of two levels, with 16 significant bits: float32[]."""
        if self.bits == 1:
            return round_significand(values.abs().mean().clamp_min(torch.finfo(torch.float32).tiny))
        return round_significand(torch.tensor(1 / self.top, device=values.device))

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"bits={self.bits}"


def _normalise(values: Tensor) -> Tensor:
    """``tanh(w) / max|tanh(w)|``: -1 to 1."""
    squashed = torch.tanh(values)
    return squashed / squashed.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
