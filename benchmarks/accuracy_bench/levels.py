"""Plots of the levels that a network has learned, layer by layer, over the values that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lqcompile.nn import LQActivation, LQConv2d, LQLinear
from lqcompile.nn.quantizer import LQWeight
from lqcompile.nn.uniform import best_step

BINS = 60
"""Of the histograms."""

LIMIT = 4.0
"""Ends of the axis of weights, in root mean squares."""


def plot_levels(model: nn.Module, values: dict[str, tuple[Tensor, Tensor]], title: str, path: Path) -> None:
    """One row per layer: activations with the learned levels and the best uniform ones, and weights likewise.

    Weights of a channel are divided by their root mean square, so that all channels fit one axis; every channel has a
    tick for each of its levels.

    Args:
        model: a trained network of learned codes.
        values: weights float32[C, N] and input activations float32[1, N] by layer.
        title: of the whole.
        path: SVG file to write.
    """
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lqcompile"  # the same file from the same network
    mpl.rcParams["svg.fonttype"] = "none"  # letters as text, not as outlines
    from matplotlib import pyplot

    layers = [(name, model.get_submodule(name)) for name in values]
    figure, axes = pyplot.subplots(
        len(layers), 2, figsize=(9, 1.3 * len(layers) + 0.6), layout="constrained", squeeze=False
    )
    for (name, layer), (left, right) in zip(layers, axes, strict=True):
        if not isinstance(layer, LQConv2d | LQLinear) or not isinstance(layer.weight_quantizer, LQWeight):
            raise TypeError(f"layer {name!r}: found {type(layer).__name__}, expected learned codes")
        if isinstance(layer.act_quantizer, LQActivation):
            _plot_activations(left, values[name][1][0], layer.act_quantizer)
        _plot_weights(right, layer.weight.detach().flatten(1), layer.weight_quantizer)
        left.set_ylabel(name, rotation=0, ha="right", fontsize=7)
        for axis in (left, right):
            axis.set_yticks([])
            axis.tick_params(labelsize=7)
            axis.spines[["top", "right", "left"]].set_visible(False)
    axes[0][0].set_title("activations: learned levels (lines), best uniform ones (dashes)", fontsize=8)
    axes[0][1].set_title("weights / root mean square of the channel: levels of every channel", fontsize=8)
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _plot_activations(axis: Any, values: Tensor, quantizer: LQActivation) -> None:
    levels = quantizer.levels().values[0]
    top = len(levels) - 1
    step = best_step(values[None], 0, top)[0]
    # Half of the values of a ReLU are 0: they would hide the others.
    axis.hist(values[values > 0].numpy(), BINS, color="0.8", histtype="stepfilled")
    for level in levels.tolist():
        axis.axvline(level, color="C0", linewidth=1.2)
    for level in (step * torch.arange(top + 1)).tolist():
        axis.axvline(level, color="C1", linewidth=1, linestyle="--")


def _plot_weights(axis: Any, weights: Tensor, quantizer: LQWeight) -> None:
    size = weights.square().mean(1, keepdim=True).sqrt().clamp_min(torch.finfo(torch.float32).tiny)
    axis.hist((weights / size).flatten().numpy(), BINS, range=(-LIMIT, LIMIT), color="0.8", histtype="stepfilled")
    levels = (quantizer.levels().values / size).flatten()
    # All ticks in one path, broken by NaN: a path for each would make the file ten times as large.
    ticks = levels[levels.abs() < LIMIT]
    breaks = torch.full_like(ticks, torch.nan)
    height = axis.get_ylim()[1] / 4
    axis.plot(
        torch.stack([ticks, ticks, breaks], 1).flatten().numpy(),
        torch.stack([0 * ticks, 0 * ticks + height, breaks], 1).flatten().numpy(),
        color="C0",
        linewidth=0.4,
        alpha=0.5,
    )
    axis.set_xlim(-LIMIT, LIMIT)
