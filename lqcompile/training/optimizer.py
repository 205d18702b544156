"""The optimizer of a recipe."""

from __future__ import annotations

import torch
from torch import nn

from lqcompile.training.recipe import Optimizer


def make_optimizer(options: Optimizer, model: nn.Module) -> torch.optim.Optimizer:
    """SGD or AdamW over the parameters of `model`; only those with more than one dimension (weights) decay."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if options.kind == "adamw":
        return torch.optim.AdamW(groups, lr=options.lr)
    return torch.optim.SGD(
        groups, lr=options.lr, momentum=options.momentum, nesterov=options.nesterov and options.momentum > 0
    )


def set_rates(optimizer: torch.optim.Optimizer, lr: float, momentum: float) -> None:
    """Set the learning rate, and the momentum (beta1 of AdamW), of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
        if "betas" in group:
            group["betas"] = (momentum, group["betas"][1])
        else:
            group["momentum"] = momentum
