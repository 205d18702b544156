"""Training a network by a recipe, with checkpoints to go on from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from lqcompile.training import ranks
from lqcompile.training.checkpoint import load_checkpoint, save_checkpoint, save_state
from lqcompile.training.data.source import Data
from lqcompile.training.evaluation import Evaluation, evaluate
from lqcompile.training.history import Epoch, write_csv
from lqcompile.training.loop import Run, Step
from lqcompile.training.recipe import Recipe

CHECKPOINT, LOG, BEST, FINAL = "checkpoint.pt", "log.csv", "best.pt", "final.pt"
"""Files in the folder of a run."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run gave.

    Args:
        history: a row per epoch.
        test: the finished network: averaged, snapped and with its statistics estimated anew where the recipe says so.
        best: the epoch with the highest top-1 accuracy among those that can be exported, the first of equals. It is
            chosen by the test samples, so its accuracy is too high by luck; quote `test`.
    """

    history: tuple[Epoch, ...]
    test: Evaluation
    best: Epoch


def fit(
    model: nn.Module,
    recipe: Recipe,
    data: Data,
    *,
    folder: Path | None = None,
    resume: bool = False,
    teacher: nn.Module | None = None,
    device: torch.device | str | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Result:
    """Train `model` in place, and test it after every epoch.

    On a CPU a run is a function of the model, the recipe, the data and the number of threads, also when it was stopped
    and resumed; torch's own random generator is seeded anew in every epoch. In a process that belongs to a group
    (``torch.distributed``) it takes its part of every batch, and all end with equal weights and bases.

    Args:
        model: float or quantized by `lqcompile.quantize`; holds the finished network afterwards.
        recipe: what to do; its network and data sections are not read, but for ``data.batch``.
        data: training and test samples.
        folder: for the checkpoint of the last epoch, the log, and the states of the best and the finished network; None
            writes nothing.
        resume: go on from the checkpoint in `folder`.
        teacher: the float twin, where the recipe distils.
        device: where to train; None for where the model is.
        on_step: told now and then how far the epoch is.
        on_epoch: told of every epoch that is done, also of those before a resumed one.

    Raises:
        TrainingError: network, data or labels do not fit each other, the loss is not finite, or the checkpoint is
            missing, damaged or of another network or recipe.
        QuantizationError: bases are to be snapped, but `model` has none.
        BuildError: `folder` cannot be written.
    """
    run = Run(model, recipe, data, teacher=teacher, device=device, on_step=on_step)
    if folder is not None and resume:
        path = folder / CHECKPOINT
        run.restore(load_checkpoint(path, recipe), path)
    for epoch in run.history:
        _tell(on_epoch, epoch)
    while len(run.history) < recipe.epochs:
        epoch = run.epoch()
        if folder is not None and ranks.rank() == 0:
            _save(run, folder)
        _tell(on_epoch, epoch)
    run.finish()
    test = evaluate(model, data.test, batch=recipe.data.batch, device=run.device)
    if folder is not None and ranks.rank() == 0:
        save_state(model.state_dict(), folder / FINAL)
    return Result(history=tuple(run.history), test=test, best=_best(run.history))


def _tell(on_epoch: Callable[[Epoch], None] | None, epoch: Epoch) -> None:
    if on_epoch is not None:
        on_epoch(epoch)


def _save(run: Run, folder: Path) -> None:
    """Write what the run needs to go on, its log, and the best network so far."""
    if _best(run.history) is run.history[-1]:
        save_state(run.tested.state_dict(), folder / BEST)
    save_checkpoint(run.checkpoint(), folder / CHECKPOINT)
    write_csv(run.history, folder / LOG)


def _best(history: list[Epoch]) -> Epoch:
    """The best epoch, from the first one with integer bases on where there is one."""
    snapped = [epoch for epoch in history if epoch.bases == "integer"]
    return max(snapped or history, key=lambda epoch: epoch.top1)
