"""Calibration: bases, steps and ranges from data, without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lqcompile.encoding import MAX_ACTIVATION_TOTAL, MAX_WEIGHT_TOTAL
from lqcompile.errors import QuantizationError
from lqcompile.nn.convert import quantizers, snap
from lqcompile.nn.int8 import Int8Activation
from lqcompile.nn.layers import LQConv2d, LQLinear
from lqcompile.nn.lsq import LSQWeight
from lqcompile.nn.methods import ActivationQuantizer, WeightQuantizer
from lqcompile.nn.qem import Levels, Statistics, quantize_with_statistics
from lqcompile.nn.quantizer import LevelQuantizer, LQActivation, LQWeight
from lqcompile.nn.uniform import UniformActivation

ModelT = TypeVar("ModelT", bound=nn.Module)


@torch.no_grad()
def calibrate(
    model: ModelT,
    loader: Iterable[Any],
    *,
    batches: int | None = None,
    max_passes: int = 10,
    tolerance: float = 1e-3,
    weight_limit: int = MAX_WEIGHT_TOTAL,
    act_limit: int = MAX_ACTIVATION_TOTAL,
) -> ModelT:
    """Set every basis, step and 8-bit range of a quantized model from data, in place: QEM to convergence.

    Weights converge first. The first batch then gives each activation basis a start that fits its own input, in order
    of execution; after that whole passes over the data collect count and sum per level in every layer at once, until no
    basis moves by more than `tolerance`. Models quantized with ``basis="int8"`` are snapped at the end.

    The steps of uniform quantizers are set once, to those of the smallest squared error on the weights and on the first
    batch.

    Args:
        model: a quantized model; its training mode is restored.
        loader: batches, each an input tensor or a sequence that starts with one; walked through up to
            ``max_passes + 1`` times.
        batches: use only the first so many of each pass.
        max_passes: most passes over the data.
        tolerance: largest relative change of a basis that counts as converged.
        weight_limit: as in `snap`.
        act_limit: as in `snap`.

    Returns:
        `model`.

    Raises:
        QuantizationError: nothing quantized in `model`, no batch from `loader` on some pass (an iterator instead of a
            sequence), or a limit out of range.
    """
    if not any(isinstance(module, ActivationQuantizer | WeightQuantizer) for module in model.modules()):
        raise QuantizationError(f"model {type(model).__name__}: found no quantized layer; call quantize first")
    mode = {module: module.training for module in model.modules()}
    model.eval()
    for module in model.modules():
        if isinstance(module, LQConv2d | LQLinear):
            _fit_weights(module, tolerance)
    device = next(model.parameters()).device
    starting = [module for module in model.modules() if isinstance(module, ActivationQuantizer)]
    _forward(model, loader, 1, device, [(module, _start) for module in starting])
    activations = [module for module in starting if isinstance(module, LQActivation)]
    observers = [(module, _observe) for module in model.modules() if isinstance(module, Int8Activation)]
    for observer, _ in observers:
        observer.updates.zero_()
    for _ in range(max_passes):
        collected: dict[LQActivation, tuple[Levels, Statistics]] = {}
        hooks = [*((module, _collector(collected)) for module in activations), *observers]
        _forward(model, loader, batches, device, hooks)
        moved = [module.refit(module.reduce(statistics), levels) for module, (levels, statistics) in collected.items()]
        if max(moved, default=0.0) <= tolerance:
            break
    if any(quantizer.integer_required for quantizer in quantizers(model)):
        snap(model, weight_limit, act_limit)
    for module, training in mode.items():
        module.training = training
    return model


def fit_rows(quantizer: LevelQuantizer, rows: Tensor, tolerance: float = 1e-3, max_steps: int = 50) -> None:
    """Refit the basis on fixed rows until it moves by at most `tolerance`.

    The start is the initial basis scaled to the values: its shape times the root mean square of each row.

    Args:
        quantizer: of C rows; a snapped one is left alone.
        rows: float32[C, N].
        tolerance: largest relative change that counts as converged.
        max_steps: most refits.
    """
    if quantizer.integer:
        return
    shape = 2.0 ** torch.arange(quantizer.bits, device=rows.device)
    unit = shape / 2 ** (quantizer.bits - 1) if quantizer.symmetric else 2 * shape / ((1 << quantizer.bits) - 1)
    size = rows.square().mean(1, keepdim=True).sqrt()
    # A row of zeros keeps a start that is not zero, so that its thresholds differ.
    quantizer.basis.copy_(0.6745 * unit * torch.where(size > 0, size, 1.0))
    for _ in range(max_steps):
        levels = quantizer.levels()
        _, statistics = quantize_with_statistics(rows, levels)
        if quantizer.refit(quantizer.reduce(statistics), levels) <= tolerance:
            return


Hook = Callable[[nn.Module, tuple[Tensor, ...]], None]


def _forward(
    model: nn.Module,
    loader: Iterable[Any],
    batches: int | None,
    device: torch.device,
    hooks: Sequence[tuple[nn.Module, Hook]],
) -> None:
    """Run the batches with hooks before the forward pass of modules."""
    handles = [module.register_forward_pre_hook(hook) for module, hook in hooks]
    seen = 0
    try:
        for batch in islice(loader, batches):
            inputs = batch if isinstance(batch, Tensor) else batch[0]
            model(inputs.to(device))
            seen += 1
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise QuantizationError(
            "calibration data: found no batch, expected at least one on every pass; "
            "give a list or a DataLoader, not an iterator"
        )


def _rows(inputs: tuple[Tensor, ...]) -> Tensor:
    return inputs[0].detach().float().reshape(1, -1)


def _fit_weights(layer: LQConv2d | LQLinear, tolerance: float) -> None:
    quantizer = layer.weight_quantizer
    if isinstance(quantizer, LQWeight):
        fit_rows(quantizer, layer.weight.detach().float().flatten(1), tolerance)
    elif isinstance(quantizer, LSQWeight):
        quantizer.fit(layer.weight)


def _start(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if isinstance(module, LQActivation):
        fit_rows(module, _rows(inputs).clamp_min(0.0))
    elif isinstance(module, UniformActivation):
        module.fit(inputs[0])


def _observe(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if isinstance(module, Int8Activation) and not module.frozen:
        module.observe(inputs[0], average=False)


def _collector(collected: dict[LQActivation, tuple[Levels, Statistics]]) -> Hook:
    """A hook that sums the statistics of each quantizer into `collected`."""

    def collect(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not isinstance(module, LQActivation) or module.integer:
            return
        levels = module.levels()
        _, statistics = quantize_with_statistics(_rows(inputs), levels)
        if module in collected:
            _, before = collected[module]
            statistics = Statistics(before.counts + statistics.counts, before.totals + statistics.totals)
        collected[module] = levels, statistics

    return collect
