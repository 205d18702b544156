"""The loss of a step: labels, with smoothing, and a float twin to learn from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lqcompile.training.recipe import Recipe


def training_loss(recipe: Recipe, logits: Tensor, labels: Tensor, images: Tensor, teacher: nn.Module | None) -> Tensor:
    """Mean loss of a batch.

    Args:
        recipe: label smoothing and distillation.
        logits: float[N, classes] of the network.
        labels: int64[N].
        images: float32[N, C, H, W], for the twin.
        teacher: the float twin in evaluation mode; read where the recipe distils.

    Returns:
        float32[].

    Source: Hinton et al., "Distilling the knowledge in a neural network", 2015, for the second part.
    """
    logits = logits.float()
    loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    options = recipe.distillation
    if options is None or teacher is None:
        return loss
    with torch.no_grad():
        wanted = F.log_softmax(teacher(images).float() / options.temperature, dim=1)
    found = F.log_softmax(logits / options.temperature, dim=1)
    distance = F.kl_div(found, wanted, reduction="batchmean", log_target=True)
    return (1 - options.weight) * loss + options.weight * options.temperature**2 * distance
