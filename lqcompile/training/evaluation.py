"""How good a network is on test samples, and batch normalization statistics that fit it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lqcompile.errors import TrainingError
from lqcompile.training import ranks
from lqcompile.training.data.order import part_order, training_order
from lqcompile.training.data.source import Source


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a test says.

    Args:
        top1: part of the samples whose best class is right, 0 to 1.
        top5: part whose right class is among the five best (all, where there are five classes or fewer).
        loss: mean cross-entropy.
        count: number of samples.
    """

    top1: float
    top5: float
    loss: float
    count: int


@torch.no_grad()
def evaluate(model: nn.Module, source: Source, *, batch: int, device: torch.device | str = "cpu") -> Evaluation:
    """Test a network in evaluation mode and float32; with several processes each takes a part of the samples.

    Args:
        model: float[N, ...] -> logits float[N, classes]; its mode is restored.
        source: the samples.
        batch: samples at a time.
        device: where `model` is.

    Raises:
        TrainingError: a label that the network has no class for.
    """
    sums = torch.zeros(4, dtype=torch.float64)
    with _evaluating(model):
        for images, labels in source.batches(part_order(len(source), batch, rank=ranks.rank(), world=ranks.world()), 0):
            logits = model(images.to(device)).float()
            check_labels(labels, logits)
            wanted = labels.to(device)
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == wanted[:, None]
            loss = F.cross_entropy(logits, wanted, reduction="sum")
            sums += torch.stack([best[:, 0].sum(), best.sum(), loss, wanted.new_tensor(len(labels))]).double().cpu()
    top1, top5, loss, count = ranks.summed(sums.to(device)).tolist()
    return Evaluation(top1=top1 / count, top5=top5 / count, loss=loss / count, count=int(count))


@torch.no_grad()
def check_network(model: nn.Module, source: Source, *, device: torch.device | str = "cpu") -> None:
    """Try a network on one sample before a long run.

    Raises:
        TrainingError: it does not take the sample, or gives something else than a score for each class.
    """
    if not len(source):
        raise TrainingError("test data: found no samples, expected at least one")
    images, _ = next(iter(source.batches([torch.arange(1)], 0)))
    shape = list(images.shape[1:])
    with _evaluating(model):
        try:
            logits = model(images.to(device))
        except (RuntimeError, ValueError) as error:
            raise TrainingError(
                f"network {type(model).__name__}: found samples of shape {shape}, which it does not take "
                f"({' '.join(str(error).split())}); make the network for the data"
            ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        found = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise TrainingError(
            f"network {type(model).__name__}: found output {found} for one sample, expected [1, classes]; "
            "give a network for classification"
        )


def check_labels(labels: Tensor, logits: Tensor) -> None:
    """Refuse labels that the network has no class for.

    Raises:
        TrainingError: naming the label and the number of classes.
    """
    if int(labels.max()) >= logits.shape[1]:
        raise TrainingError(
            f"labels: found {int(labels.max())}, expected 0 to {logits.shape[1] - 1} for a network of "
            f"{logits.shape[1]} classes; make the network for the classes of the data"
        )


@torch.no_grad()
def estimate_statistics(
    model: nn.Module, source: Source, *, batches: int, batch: int, seed: int, device: torch.device | str = "cpu"
) -> None:
    """Replace the running averages of batch normalization by means over training batches, in place.

    Everything else is as in a test: quantizers keep their bases. With several processes each takes a part of every
    batch.

    Args:
        model: its mode is restored.
        source: training samples.
        batches: how many batches, at most one epoch.
        batch: samples per batch, over all processes.
        seed: of their order and changes.
        device: where `model` is.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    picks = training_order(len(source), batch, seed=seed, epoch=0, rank=ranks.rank(), world=ranks.world())[:batches]
    momentum = [norm.momentum for norm in norms]
    with _evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None  # a plain mean
        for images, _ in source.batches(picks, seed):
            model(images.to(device))
        for norm, before in zip(norms, momentum, strict=True):
            norm.momentum = before
    ranks.average_statistics(model)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block, then the mode of every module as it was."""
    mode = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in mode.items():
            module.training = training
