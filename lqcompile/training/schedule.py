"""The learning rate and the momentum of every step, as functions of the step: a resumed run needs no state for them."""

from __future__ import annotations

import math

from lqcompile.training.recipe import Recipe

RISE = 0.3
"""Part of a one-cycle run in which the learning rate rises; this and the next two as in `torch.optim.lr_scheduler`."""

START = 1 / 25
"""First learning rate of a one-cycle run, relative to the highest."""

END = START / 1e4
"""Last learning rate of a one-cycle run, relative to the highest."""

LOW_MOMENTUM, HIGH_MOMENTUM = 0.85, 0.95
"""Momentum of a one-cycle run at the highest learning rate, and at both ends (beta1 of AdamW)."""


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step.

    Args:
        recipe: schedule, epochs and highest learning rate.
        step: counted from 0 over the whole run.
        steps_per_epoch: .
    """
    schedule, total = recipe.schedule, recipe.epochs * steps_per_epoch
    if schedule.kind == "one-cycle":
        return recipe.optimizer.lr * _cycle(step, total, START, 1.0, END)
    done = step / total
    factor = 1.0
    if schedule.kind == "step":
        passed = sum(step >= milestone * steps_per_epoch for milestone in schedule.milestones)
        factor = schedule.factor**passed
    elif schedule.kind == "linear":
        factor = 1 + (schedule.final - 1) * done
    elif schedule.kind == "cosine":
        factor = _between(1.0, schedule.final, done)
    warmup = schedule.warmup_epochs * steps_per_epoch
    return recipe.optimizer.lr * factor * min(1.0, (step + 1) / warmup if warmup else 1.0)


def momentum(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Momentum of SGD, or beta1 of AdamW, of a step; arguments as `learning_rate`."""
    if recipe.schedule.kind == "one-cycle":
        return _cycle(step, recipe.epochs * steps_per_epoch, HIGH_MOMENTUM, LOW_MOMENTUM, HIGH_MOMENTUM)
    return recipe.optimizer.momentum


def _cycle(step: int, total: int, start: float, peak: float, end: float) -> float:
    """From `start` to `peak` over the first part of the run, and on to `end` at its last step, along half cosines."""
    top = RISE * total - 1
    if step <= top:
        return _between(start, peak, step / top)
    return _between(peak, end, (step - top) / (total - 1 - top))


def _between(first: float, last: float, done: float) -> float:
    """Half a cosine from `first` to `last`."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * done))
