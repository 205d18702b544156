"""Epilogues of nothing but quantizers: their thresholds are moved through the chain of stages onto the sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import Output, Stage
from lqcompile.graph.specs import LowBitWeights, Quantizer
from lqcompile.lowering import parameters as pack
from lqcompile.lowering.outputs import make_store
from lqcompile.lowering.program import Tensor
from lqcompile.lowering.sums import Sums
from lqcompile.schedules.epilogue import Epilogue, Store

Stores = Sequence[tuple[Output, Tensor]]


def integer_epilogue(
    sums: Sums, corrections: npt.NDArray[np.int64], stages: tuple[Stage, ...], stores: Stores, channels: int
) -> tuple[Epilogue, list[npt.NDArray[Any]]]:
    """Quantizers as thresholds on the integer sum; channels whose chain falls compare the complement ``~T``.

    Args:
        sums: of the contraction.
        corrections: what was added to them, int64[O].
        stages: from y to the outputs.
        stores: (output, tensor) to write.
        channels: as stored, of the last block too.
    """
    if sums.quantizer is None:
        raise TypeError("integer sums need codes")
    bound = pack.sum_bound(sums.operation, sums.quantizer) + np.abs(corrections) + 1
    found: list[Store] = []
    arrays: list[npt.NDArray[Any]] = []
    for output, tensor in stores:
        falling = _signs(sums, stages, output) ^ sums.falls()

        def value_of(
            values: npt.NDArray[np.int64], falling: npt.NDArray[np.bool_] = falling, output: Output = output
        ) -> npt.NDArray[np.float32]:
            raw = np.where(falling[:, None], ~values, values)
            return pack.stream_values(sums.real(raw - corrections[:, None]), stages, output)

        quantizer = _levels(output)
        thresholds = pack.integer_thresholds(value_of, quantizer.thresholds, bound)
        rows = np.full((len(quantizer.thresholds), channels), np.iinfo(np.int32).max, np.int32)
        rows[:, : sums.outputs] = thresholds
        found.append(_store(output, tensor, falling))
        arrays.append(rows.ravel())
        if found[-1].complement:
            arrays.append(pack.per_channel(np.where(falling, -1, 0), channels, "int32"))
    return Epilogue(mode="integer", steps=(), stores=tuple(found)), arrays


def real_epilogue(
    sums: Sums, stages: tuple[Stage, ...], stores: Stores, channels: int
) -> tuple[Epilogue, list[npt.NDArray[Any]]]:
    """Quantizers as float64 thresholds on y, or on the sum over activation planes; falling channels change sign.

    Args:
        sums: of the contraction, with low-bit weights on low-bit codes.
        stages: from y to the outputs.
        stores: (output, tensor) to write.
        channels: as stored, of the last block too.
    """
    weights, acts = sums.operation.weights, sums.quantizer
    if not isinstance(weights, LowBitWeights) or not isinstance(acts, Quantizer):
        raise TypeError("real thresholds need low-bit weights on low-bit codes")
    basis = weights.scale[:, None].astype(np.float64) * weights.basis.astype(np.float64)
    factor = basis if sums.inner_only() else np.ones((sums.outputs, 1))
    bound = _largest_value(weights, acts, basis, inner_only=sums.inner_only())
    found: list[Store] = []
    arrays: list[npt.NDArray[Any]] = []
    for output, tensor in stores:
        falling = _signs(sums, stages, output) ^ (factor[:, 0] < 0)
        turn = np.where(falling, -1.0, 1.0)[:, None]

        def value_of(
            values: npt.NDArray[np.float64], turn: npt.NDArray[np.float64] = turn, output: Output = output
        ) -> npt.NDArray[np.float32]:
            return pack.stream_values(factor * (values * turn), stages, output)

        quantizer = _levels(output)
        thresholds = pack.real_thresholds(value_of, quantizer.thresholds, bound)
        rows = np.full((len(quantizer.thresholds), channels), np.inf)
        rows[:, : sums.outputs] = thresholds
        found.append(_store(output, tensor, falling))
        arrays.append(rows.ravel())
        if found[-1].complement:
            arrays.append(pack.per_channel(turn[:, 0], channels, "float64", 1.0))
    return Epilogue(mode="real", steps=(), stores=tuple(found)), arrays


def _largest_value(
    weights: LowBitWeights, acts: Quantizer, basis: npt.NDArray[np.float64], *, inner_only: bool
) -> npt.NDArray[np.float64]:
    """Twice the largest magnitude of what thresholds apply to, so that no rounding on the way leaves it: float64[O]."""
    steps = float(np.abs(acts.basis.astype(np.float64) * acts.scale).sum()) + abs(acts.offset)
    weight = np.ones(len(basis)) if inner_only else np.abs(basis).sum(axis=1) + np.abs(weights.offset)
    bound: npt.NDArray[np.float64] = 2.0 * np.prod(weights.shape[1:]) * steps * weight
    return np.maximum(bound, np.finfo(np.float32).tiny)


def _signs(sums: Sums, stages: tuple[Stage, ...], output: Output) -> npt.NDArray[np.bool_]:
    """Channels in which the output falls as y rises: bool[O]."""
    signs = pack.scale_signs((*stages, *output.stages))
    return signs if signs is not None else np.zeros(sums.outputs, np.bool_)


def _levels(output: Output) -> Quantizer:
    quantizer = output.value.quantizer
    if not isinstance(quantizer, Quantizer):
        raise TypeError("thresholds need a level quantizer")
    return quantizer


def _store(output: Output, tensor: Tensor, falling: npt.NDArray[np.bool_]) -> Store:
    return replace(make_store(output, tensor), steps=(), per_channel=True, complement=bool(falling.any()))
