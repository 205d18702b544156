"""The least quantization error there is: of any levels (exact), and of the levels of a basis (search)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lqcompile.nn.qem import quantize_exact, quantize_with_statistics, solve_basis, sorted_levels

STARTS = 40
"""Random bases that a search starts from."""

STEPS = 30
"""Refits of each of them."""


def free_levels_error(values: npt.NDArray[np.float64], count: int, *, zero: bool) -> float:
    """Squared error of the best `count` levels for given values, by dynamic programming: exact.

    Levels are free, so no basis does better. The values are cut into `count` runs of the sorted values, each with its
    mean for a level (Wang and Song, "Ckmeans.1d.dp", 2011).

    Args:
        values: float64[N]; time grows with the square of N.
        count: number of levels.
        zero: the lowest level is 0, as that of activations is.

    Example:
        >>> free_levels_error(np.array([0.0, 1.0, 5.0, 6.0]), 2, zero=False)
        1.0
    """
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    squares = np.concatenate([[0.0], np.cumsum(ordered**2)])
    # best[i]: least error of the first i values with the levels so far; the first level is 0, or the mean.
    means = sums / np.maximum(np.arange(len(sums)), 1)
    best = squares if zero else np.maximum(squares - sums * means, 0.0)
    for _ in range(count - 1):
        best = np.array([_best_cut(best, sums, squares, end) for end in range(len(ordered) + 1)])
    return float(best[-1])


def _best_cut(
    best: npt.NDArray[np.float64], sums: npt.NDArray[np.float64], squares: npt.NDArray[np.float64], end: int
) -> float:
    """Least error of the first `end` values where the last run starts anywhere."""
    starts = np.arange(end + 1)
    total, square = sums[end] - sums[starts], squares[end] - squares[starts]
    spread = np.maximum(square - total**2 / np.maximum(end - starts, 1), 0.0)
    return float((best[: end + 1] + spread).min())


def best_basis_error(rows: Tensor, bits: int, *, symmetric: bool, generator: torch.Generator) -> Tensor:
    """Least squared error of QEM from many random bases, per row: float32[C, N] -> float64[C].

    A basis of one or two bits has at most two numbers, for which so many starts find the best; from three bits on it is
    the best known.
    """
    least = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    reach = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    for _ in range(STARTS):
        basis = reach * torch.rand(len(rows), bits, generator=generator)
        for _ in range(STEPS):
            levels = sorted_levels(basis, symmetric)
            _, statistics = quantize_with_statistics(rows, levels)
            basis = solve_basis(statistics, levels, basis, symmetric).float()
        least = torch.minimum(least, squared_error(rows, quantize_exact(rows, sorted_levels(basis, symmetric))))
    return least


def squared_error(rows: Tensor, quantized: Tensor) -> Tensor:
    """Per row: float32[C, N] both -> float64[C]."""
    return (rows.double() - quantized.double()).square().sum(1)
