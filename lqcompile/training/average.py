"""An exponential average of a network over the steps of its training."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Average:
    """A copy of a network that follows it: parameters, bases and running statistics alike.

    The first steps count more than `decay` says, so that the start is forgotten: ``min(decay, (1 + t) / (10 + t))``.

    Args:
        model: the network to follow, as it is now.
        decay: of the average, per step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards `model`; what is not a float (counters) is copied."""
        self.steps += 1
        rate = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        own = [*self.model.parameters(), *self.model.buffers()]
        for mine, other in zip(own, [*model.parameters(), *model.buffers()], strict=True):
            if mine.is_floating_point():
                mine.lerp_(other.to(mine.dtype), rate)
            else:
                mine.copy_(other)
