"""Learned step size quantization: uniform grids whose step is trained by its gradient.

Source: Esser et al., "Learned Step Size Quantization", ICLR 2020 (arXiv 1902.08153), sections 2.1 to 2.2.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from lqcompile.nn.coding import Coding, check_bits
from lqcompile.nn.uniform import UniformActivation, best_step, quantize_uniform, round_step, scale_gradient


class LSQActivation(UniformActivation):
    """Activations on ``step * (0, ..., Q)``, ``Q = 2**bits - 1``.

    ``y = round(clamp(x / s, 0, Q)) * s``; the gradient of x passes inside the grid, that of s is ``round(x/s) - x/s``
    inside and Q above, times ``1 / sqrt(N Q)`` with N features per image. The first batch sets s to
    ``2 mean|x| / sqrt(Q)``.

    Args:
        bits: 1 to 4.

    Raises:
        QuantizationError: `bits` out of range.
    """

    def __init__(self, bits: int = 2) -> None:
        super().__init__(bits)
        self.raw_step = nn.Parameter(torch.ones(()))

    def step(self) -> Tensor:
        """The step as it is exported: float32[]."""
        return round_step(self.raw_step)

    def set_step(self, step: Tensor) -> None:
        """Start from `step`, float[]."""
        self.raw_step.copy_(step)

    def forward(self, x: Tensor) -> Tensor:
        """Quantize float[any], same dtype."""
        if not self.training:
            return self.quantize_exact(x)
        if not self.started:
            with torch.no_grad():
                self.raw_step.copy_(2 * mean_magnitude(x) / self.top**0.5)
                self.started.fill_(1)
        step = scale_gradient(self.step(), (x[0].numel() * self.top) ** -0.5)
        return quantize_uniform(x.float(), step, 0, self.top, inner=True).to(x.dtype)


class LSQWeight(nn.Module):
    """Weights on ``step * (-2**(bits-1), ..., 2**(bits-1) - 1)``, one step per layer, as in the paper.

    Gradients as in `LSQActivation`, N being the number of weights; the initial step is ``2 mean|w| / sqrt(Q)`` with
    ``Q = 2**(bits-1) - 1``. The paper has no single bit; here that is -step/2 and step/2 with the step ``2 mean|w|``.
    From two bits on there is a level at 0 and none in the middle, so the code form has an offset of half a step.

    Args:
        bits: 1 to 4.
        weight: float[O, ...], for shape, device and initial step.

    Raises:
        QuantizationError: `bits` out of range.
    """

    def __init__(self, bits: int, weight: Tensor) -> None:
        super().__init__()
        check_bits("weight_bits", bits)
        self.bits = bits
        half = 1 << (bits - 1)
        self.low, self.high, self.shift = (0, 1, 0.5) if bits == 1 else (-half, half - 1, 0.0)
        mean = weight.detach().float().abs().mean()
        self.raw_step = nn.Parameter(2 * mean / self.high**0.5)

    def step(self) -> Tensor:
        """The step as it is exported: float32[]."""
        return round_step(self.raw_step)

    @torch.no_grad()
    def fit(self, weight: Tensor) -> None:
        """Start from the step of the smallest squared error on float[O, ...]."""
        self.raw_step.copy_(best_step(weight.float().reshape(1, -1), self.low, self.high, self.shift)[0])

    def forward(self, weight: Tensor) -> Tensor:
        """Quantize float[O, ...], same dtype."""
        step = scale_gradient(self.step(), (weight.numel() * self.high) ** -0.5)
        return quantize_uniform(weight.float(), step, self.low, self.high, self.shift, inner=True).to(weight.dtype)

    @torch.no_grad()
    def encode(self, weight: Tensor) -> tuple[Tensor, Coding]:
        """Codes int64[O, M] of a weight float[O, ...], and what they stand for."""
        step = self.step()
        index = torch.round(weight.float().flatten(1) / step + self.shift).clamp(self.low, self.high) - self.low
        basis = (2.0 ** torch.arange(self.bits, device=weight.device)).expand(len(weight), self.bits)
        half = step.expand(len(weight)) / 2
        if self.bits == 1:
            return index.long(), Coding(basis, half, torch.zeros_like(half), integer=True)
        return index.long(), Coding(basis * half[:, None], torch.ones_like(half), -half, integer=False)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"bits={self.bits}"


def mean_magnitude(x: Tensor) -> Tensor:
    """Mean of ``|x|``, over all ranks of the default process group: float32[]."""
    mean = x.detach().float().abs().mean()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(mean)
        mean /= dist.get_world_size()
    return mean
