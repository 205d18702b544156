"""The state of a training run between two epochs, and one epoch of it."""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lqcompile.errors import TrainingError
from lqcompile.nn.convert import snap
from lqcompile.nn.quantizer import LQActivation
from lqcompile.training import ranks
from lqcompile.training.average import Average
from lqcompile.training.checkpoint import Checkpoint, load_into
from lqcompile.training.data.order import mix, training_order
from lqcompile.training.data.source import Data
from lqcompile.training.evaluation import check_labels, check_network, estimate_statistics, evaluate
from lqcompile.training.history import Epoch
from lqcompile.training.losses import training_loss
from lqcompile.training.optimizer import make_optimizer, set_rates
from lqcompile.training.recipe import Recipe
from lqcompile.training.schedule import learning_rate, momentum

_LOG = logging.getLogger(__name__)

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


class Run:
    """The state of a run between two epochs; arguments as those of `lqcompile.training.fit`.

    Attributes:
        history: a row for each epoch that is done.
        device: where it trains.

    Raises:
        TrainingError: the recipe distils and there is no teacher, or the network does not take the samples.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        data: Data,
        *,
        teacher: nn.Module | None,
        device: torch.device | str | None,
        on_step: Callable[[Step], None] | None,
    ) -> None:
        if recipe.distillation is not None and teacher is None:
            raise TrainingError(
                "distillation: found no float twin, expected one to learn from; give it, or leave [distillation] out"
            )
        self.history: list[Epoch] = []
        self.device = torch.device(device) if device is not None else next(model.parameters()).device
        self._model, self._recipe, self._data, self._on_step = model.to(self.device), recipe, data, on_step
        self._teacher = None if teacher is None else teacher.to(self.device).eval().requires_grad_(False)
        self._optimizer = make_optimizer(recipe.optimizer, model)
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=recipe.precision == "fp16")
        check_network(model, data.test, device=self.device)
        self._parallel = _parallel(model)
        self._average = Average(model, recipe.ema_decay) if recipe.ema_decay else None
        self._noted = False

    def epoch(self) -> Epoch:
        """Train and test the next epoch, and add it to the history."""
        index = len(self.history)
        recipe, start = self._recipe, time.perf_counter()
        torch.manual_seed(mix(recipe.seed, index, ranks.rank()))
        if self._is_snapped(index) and not self._is_snapped(index - 1):
            self._snap()
        loss, lr = self._train(index)
        ranks.average_statistics(self._model)
        if self._average is not None:
            ranks.average_statistics(self._average.model)
        test = evaluate(self.tested, self._data.test, batch=recipe.data.batch, device=self.device)
        epoch = Epoch(
            epoch=index + 1,
            bases="integer" if self._is_snapped(index) else "float",
            lr=lr,
            loss=loss,
            test_loss=test.loss,
            top1=test.top1,
            top5=test.top5,
            seconds=time.perf_counter() - start,
        )
        self.history.append(epoch)
        self._note_singular()
        return epoch

    def finish(self) -> None:
        """Turn the model into the finished network: averaged, snapped, its statistics estimated anew, not training."""
        recipe = self._recipe
        if self._average is not None:
            self._model.load_state_dict(self._average.model.state_dict())
            self._average = None
        if recipe.snap is not None and not recipe.snap.epochs:
            self._snap()
        if recipe.bn_batches:
            estimate_statistics(
                self._model,
                self._data.train,
                batches=recipe.bn_batches,
                batch=recipe.data.batch,
                seed=mix(recipe.seed, recipe.epochs),
                device=self.device,
            )
        self._model.eval()

    def checkpoint(self) -> Checkpoint:
        """What the run needs to go on."""
        return Checkpoint(
            recipe=self._recipe,
            history=tuple(self.history),
            model=self._model.state_dict(),
            optimizer=self._optimizer.state_dict(),
            scaler=self._scaler.state_dict(),
            average={} if self._average is None else self._average.model.state_dict(),
            average_steps=0 if self._average is None else self._average.steps,
        )

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Go back to a checkpoint.

        Args:
            checkpoint: of the same recipe.
            path: where it comes from, for messages.

        Raises:
            TrainingError: it is of another network.
        """
        load_into(self._model, checkpoint.model, path)
        self._optimizer.load_state_dict(checkpoint.optimizer)
        self._scaler.load_state_dict(checkpoint.scaler)
        if self._average is not None:
            load_into(self._average.model, checkpoint.average, path)
            self._average.steps = checkpoint.average_steps
        self.history = list(checkpoint.history)

    @property
    def tested(self) -> nn.Module:
        """The network that is tested after an epoch: the averaged one where there is one."""
        return self._model if self._average is None else self._average.model

    def _note_singular(self) -> None:
        """Say once in a run that bits of activations did not occur."""
        layers = [
            name.removesuffix(".act_quantizer")
            for name, module in self._model.named_modules()
            if isinstance(module, LQActivation) and module.singular
        ]
        if layers and not self._noted and ranks.is_first():
            self._noted = True
            _LOG.warning(
                "training: found bits of activations that never occur, or never without another (%s); least squares is "
                "regularised there and keeps their basis vectors; if accuracy is low, use fewer act_bits",
                ", ".join(layers),
            )

    def _is_snapped(self, epoch: int) -> bool:
        """Whether the bases are integers in this epoch, counted from 0."""
        return self._recipe.snap is not None and epoch >= self._recipe.epochs - self._recipe.snap.epochs

    def _train(self, index: int) -> tuple[float, float]:
        """One pass over the training samples; gives the mean loss and the last learning rate."""
        recipe = self._recipe
        self._parallel.train()
        batch, source = recipe.data.batch, self._data.train
        picks = training_order(
            len(source), batch, seed=recipe.seed, epoch=index, rank=ranks.rank(), world=ranks.world()
        )
        total, lr = torch.zeros((), device=self.device), 0.0
        for step, (images, labels) in enumerate(source.batches(picks, mix(recipe.seed, index, ranks.rank()))):
            lr = learning_rate(recipe, index * len(picks) + step, len(picks))
            set_rates(self._optimizer, lr, momentum(recipe, index * len(picks) + step, len(picks)))
            total += self._step(images.to(self.device), labels)
            if (step + 1) % CHECK_EVERY == 0 or step + 1 == len(picks):
                mean = float(total) / (step + 1)
                self._check(mean, index + 1, step + 1)
                if self._on_step is not None:
                    self._on_step(Step(epoch=index + 1, step=step + 1, steps=len(picks), loss=mean))
        return float(ranks.summed(total)) / len(picks) / ranks.world(), lr

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step; gives the loss, detached."""
        precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._recipe.precision)
        with nullcontext() if precision is None else torch.autocast(self.device.type, precision):
            logits = self._parallel(images)
        check_labels(labels, logits)
        loss = training_loss(self._recipe, logits, labels.to(self.device), images, self._teacher)
        self._optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if self._recipe.optimizer.clip_norm is not None:
            self._scaler.unscale_(self._optimizer)
            nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.optimizer.clip_norm)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        if self._average is not None:
            self._average.update(self._model)
        return loss.detach()

    def _check(self, loss: float, epoch: int, step: int) -> None:
        """Stop where the loss is not a number any more."""
        if not math.isfinite(loss):
            raise TrainingError(
                f"training: found loss {loss} in epoch {epoch} by step {step}, expected a finite one; lower "
                "optimizer.lr, set optimizer.clip_norm or schedule.warmup_epochs, or use another precision than fp16"
            )

    def _snap(self) -> None:
        """Snap the bases; an average starts again, from itself."""
        options = self._recipe.snap
        if options is None:
            return
        if self._average is not None:
            self._model.load_state_dict(self._average.model.state_dict())
        snap(self._model, options.weight_limit, options.act_limit)
        if self._average is not None:
            self._average = Average(self._model, self._recipe.ema_decay)


def _parallel(model: nn.Module) -> nn.Module:
    """The model as it is called in a step: all processes average its gradients."""
    if ranks.world() == 1:
        return model
    with warnings.catch_warnings():
        # torch 2.13 has a new name for the option, which earlier ones do not know.
        warnings.simplefilter("ignore", FutureWarning)
        # Bases are equal anyway, and running statistics are averaged once per epoch.
        return DistributedDataParallel(model, broadcast_buffers=False)
