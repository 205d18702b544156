"""Quantization error of trained weights and activations: uniform, learned, and the least there is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from accuracy_bench.optimum import best_basis_error, free_levels_error, squared_error
from lqcompile.nn import LQActivation
from lqcompile.nn.calibrate import fit_rows
from lqcompile.nn.qem import quantize_exact
from lqcompile.nn.quantizer import LQWeight
from lqcompile.nn.uniform import best_step, quantize_uniform

VALUES = 2000
"""Activations of a layer that are looked at, drawn at random."""

CHANNELS = 8
"""Output channels of a layer that are looked at, evenly spaced; the search for the optimum is slow."""


@dataclass(frozen=True, kw_only=True)
class Errors:
    """Mean squared error relative to the mean square, in percent.

    Args:
        layer: name of the layer.
        kind: "weights" (per output channel) or "activations" (per layer).
        bits: 1 to 4.
        uniform: best uniform grid: symmetric without 0 for weights, from 0 on for activations.
        learned: QEM from the start that `lqcompile.calibrate` takes.
        best_basis: QEM from many starts.
        free: the best levels without a basis, exact.
    """

    layer: str
    kind: str
    bits: int
    uniform: float
    learned: float
    best_basis: float
    free: float


def layer_values(model: nn.Module, images: Tensor, seed: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Weights float32[C, N] and input activations float32[1, VALUES] of every layer but the first and the last."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    inner = dict(list(layers.items())[1:-1])
    inputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, found, name=name: inputs.__setitem__(name, found[0].detach()))
        for name, module in inner.items()
    ]
    with torch.no_grad():
        model.eval()(images)
    for hook in hooks:
        hook.remove()
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, module in inner.items():
        flat = inputs[name].flatten()
        values = flat[torch.randint(len(flat), (VALUES,), generator=generator)].relu()[None]
        weights = module.weight.detach().flatten(1)
        found[name] = weights[:: max(1, len(weights) // CHANNELS)][:CHANNELS], values
    return found


def measure(layer: str, kind: str, rows: Tensor, bits: int, seed: int) -> Errors:
    """All four errors of one layer, over all its rows together: rows float32[C, N]."""
    symmetric = kind == "weights"
    top = (1 << bits) - 1
    shift = top / 2 if symmetric else 0.0
    steps = best_step(rows, 0, top, shift)
    uniform = torch.stack(
        [quantize_uniform(row, step, 0, top, shift, inner=True) for row, step in zip(rows, steps, strict=True)]
    )
    quantizer = LQWeight(bits, rows) if symmetric else LQActivation(bits)
    fit_rows(quantizer, rows, tolerance=1e-5, max_steps=200)
    generator = torch.Generator().manual_seed(seed)
    free = sum(free_levels_error(row.double().numpy(), 1 << bits, zero=not symmetric) for row in rows)
    total = float(rows.double().square().sum()) / 100
    return Errors(
        layer=layer,
        kind=kind,
        bits=bits,
        uniform=float(squared_error(rows, uniform).sum()) / total,
        learned=float(squared_error(rows, quantize_exact(rows, quantizer.levels())).sum()) / total,
        best_basis=float(best_basis_error(rows, bits, symmetric=symmetric, generator=generator).sum()) / total,
        free=free / total,
    )
