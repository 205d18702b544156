"""Training a network by a recipe, with checkpoints to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lqcompile.errors import TrainingError
from lqcompile.nn.convert import snap
from lqcompile.training import ranks
from lqcompile.training.average import Average
from lqcompile.training.checkpoint import Checkpoint, load_checkpoint, load_into, save_checkpoint, save_state
from lqcompile.training.data.order import mix, training_order
from lqcompile.training.data.source import Data
from lqcompile.training.evaluation import Evaluation, check_labels, estimate_statistics, evaluate
from lqcompile.training.history import Epoch, write_csv
from lqcompile.training.losses import training_loss
from lqcompile.training.optimizer import make_optimizer, set_rates
from lqcompile.training.recipe import Recipe
from lqcompile.training.schedule import learning_rate, momentum

CHECKPOINT, LOG, BEST, FINAL = "checkpoint.pt", "log.csv", "best.pt", "final.pt"
"""Files in the folder of a run."""

CHECK_EVERY = 20
"""Steps between looks at the loss: each look waits for the device."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """Where a run is; passed to `on_step`.

    Args:
        epoch: counted from 1.
        step: steps of this epoch that are done.
        steps: steps per epoch.
        loss: mean training loss of this epoch so far.
    """

    epoch: int
    step: int
    steps: int
    loss: float


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
        TrainingError: data or labels do not fit, the loss is not finite, or the checkpoint is missing, damaged or of
            another network or recipe.
        QuantizationError: bases are to be snapped, but `model` has none.
        BuildError: `folder` cannot be written.
    """
    run = _Run(model, recipe, data, teacher, device, on_step)
    if folder is not None and resume:
        run.restore(folder)
    for epoch in run.history:
        _tell(on_epoch, epoch)
    while len(run.history) < recipe.epochs:
        epoch = run.epoch(len(run.history))
        run.history.append(epoch)
        if folder is not None and ranks.rank() == 0:
            run.save(folder)
        _tell(on_epoch, epoch)
    return run.finish(folder)


def _tell(on_epoch: Callable[[Epoch], None] | None, epoch: Epoch) -> None:
    if on_epoch is not None:
        on_epoch(epoch)


class _Run:
    """The state of a run between two epochs."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        data: Data,
        teacher: nn.Module | None,
        device: torch.device | str | None,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        if recipe.distillation is not None and teacher is None:
            raise TrainingError(
                "distillation: found no float twin, expected one to learn from; give it, or leave [distillation] out"
            )
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self.model, self.recipe, self.data, self.on_step = model.to(self.device), recipe, data, on_step
        self.teacher = None if teacher is None else teacher.to(self.device).eval().requires_grad_(False)
        self.optimizer = make_optimizer(recipe.optimizer, model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        self.average = Average(model, recipe.ema_decay) if recipe.ema_decay else None
        self.parallel = _parallel(model)
        self.history: list[Epoch] = []

    @property
    def tested(self) -> nn.Module:
        """The network that counts: the averaged one where there is one."""
        return self.model if self.average is None else self.average.model

    def is_snapped(self, epoch: int) -> bool:
        """Whether the bases are integers in this epoch, counted from 0."""
        return self.recipe.snap is not None and epoch >= self.recipe.epochs - self.recipe.snap.epochs

    def epoch(self, index: int) -> Epoch:
        """Train and test one epoch, counted from 0."""
        recipe, start = self.recipe, time.perf_counter()
        torch.manual_seed(mix(recipe.seed, index, ranks.rank()))
        if self.is_snapped(index) and not self.is_snapped(index - 1):
            self.snap()
        loss, lr = self.train(index)
        ranks.average_statistics(self.model)
        if self.average is not None:
            ranks.average_statistics(self.average.model)
        test = evaluate(self.tested, self.data.test, batch=recipe.data.batch, device=self.device)
        return Epoch(
            epoch=index + 1,
            bases="integer" if self.is_snapped(index) else "float",
            lr=lr,
            loss=loss,
            test_loss=test.loss,
            top1=test.top1,
            top5=test.top5,
            seconds=time.perf_counter() - start,
        )

    def train(self, index: int) -> tuple[float, float]:
        """One pass over the training samples; gives the mean loss and the last learning rate."""
        recipe = self.recipe
        self.parallel.train()
        batch, source = recipe.data.batch, self.data.train
        picks = training_order(
            len(source), batch, seed=recipe.seed, epoch=index, rank=ranks.rank(), world=ranks.world()
        )
        total, lr = torch.zeros((), device=self.device), 0.0
        for step, (images, labels) in enumerate(source.batches(picks, mix(recipe.seed, index, ranks.rank()))):
            lr = learning_rate(recipe, index * len(picks) + step, len(picks))
            set_rates(self.optimizer, lr, momentum(recipe, index * len(picks) + step, len(picks)))
            total += self.step(images.to(self.device), labels)
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == len(picks):
                mean = float(total) / (step + 1)
                self.check(mean, index + 1, step + 1)
                if self.on_step is not None:
                    self.on_step(Step(epoch=index + 1, step=step + 1, steps=len(picks), loss=mean))
        return float(ranks.summed(total)) / len(picks) / ranks.world(), lr

    def step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step; gives the loss, detached."""
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        with nullcontext() if precision is None else torch.autocast(self.device.type, precision):
            logits = self.parallel(images)
        check_labels(labels, logits)
        loss = training_loss(self.recipe, logits, labels.to(self.device), images, self.teacher)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self.recipe.optimizer.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.model)
        return loss.detach()

    def check(self, loss: float, epoch: int, step: int) -> None:
        """Stop where the loss is not a number any more."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"training: found loss {loss} in epoch {epoch} by step {step}, expected a finite one; lower "
                "optimizer.lr, set optimizer.clip_norm or schedule.warmup_epochs, or use another precision than fp16"
            )

    def snap(self) -> None:
        """Snap the bases; an average starts again, from itself."""
        options = self.recipe.snap
        if options is None:
            return
        if self.average is not None:
            self.model.load_state_dict(self.average.model.state_dict())
        snap(self.model, options.weight_limit, options.act_limit)
        if self.average is not None:
            self.average = Average(self.model, self.recipe.ema_decay)

    def finish(self, folder: Path | None) -> Result:
        """Turn the model into the finished network and test it."""
        recipe = self.recipe
        if self.average is not None:
            self.model.load_state_dict(self.average.model.state_dict())
            self.average = None
        if recipe.snap is not None and not recipe.snap.epochs:
            self.snap()
        if recipe.bn_batches:
            estimate_statistics(
                self.model,
                self.data.train,
                batches=recipe.bn_batches,
                batch=recipe.data.batch,
                seed=mix(recipe.seed, recipe.epochs),
                device=self.device,
            )
        self.model.eval()
        test = evaluate(self.model, self.data.test, batch=recipe.data.batch, device=self.device)
        if folder is not None and ranks.rank() == 0:
            save_state(self.model.state_dict(), folder / FINAL)
        return Result(history=tuple(self.history), test=test, best=self.best())

    def best(self) -> Epoch:
        """The best epoch among those that can be exported: with [snap], those with integer bases, if there are any."""
        snapped = [epoch for epoch in self.history if epoch.bases == "integer"]
        return max(snapped or self.history, key=lambda epoch: epoch.top1)

    def save(self, folder: Path) -> None:
        """Write what the run needs to go on, and the best network so far."""
        if self.best() is self.history[-1]:
            save_state(self.tested.state_dict(), folder / BEST)
        checkpoint = Checkpoint(
            recipe=self.recipe,
            history=tuple(self.history),
            model=self.model.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            average={} if self.average is None else self.average.model.state_dict(),
            average_steps=0 if self.average is None else self.average.steps,
        )
        save_checkpoint(checkpoint, folder / CHECKPOINT)
        write_csv(self.history, folder / LOG)

    def restore(self, folder: Path) -> None:
        """Go back to the checkpoint."""
        path = folder / CHECKPOINT
        checkpoint = load_checkpoint(path, self.recipe)
        load_into(self.model, checkpoint.model, path)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.scaler.load_state_dict(checkpoint.scaler)
        if self.average is not None:
            load_into(self.average.model, checkpoint.average, path)
            self.average.steps = checkpoint.average_steps
        self.history = list(checkpoint.history)


def _parallel(model: nn.Module) -> nn.Module:
    """The model as it is called in a step: all processes average its gradients."""
    if ranks.world() == 1:
        return model
    # Bases are equal anyway, and running statistics are averaged once per epoch.
    return DistributedDataParallel(model, broadcast_buffers=False)
