"""QEM: quantize by the current levels, and refit the basis by least squares (LQ-Nets, section 3.2).

Least squares needs only the number of values that fall in each level and their sum, so no code is ever held per bit.
Rows are independent: weights have one row per output channel, activations a single row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1 << 16
"""Elements handled at a time on a CPU: the temporaries of one chunk stay in the second-level cache."""

WEIGHT_RIDGE = 1e-4
"""Regulariser of the weight normal equations in the authors' code."""

ACTIVATION_RIDGE = 1e-7
"""Regulariser of the activation normal equations, relative to their trace; the authors have none, so that a bit that
never occurs makes theirs singular."""

SINGULAR = 1e-12
"""Relative determinant of normal equations below which they count as singular: float64 is exact to 1e-16, and a bit
that one of a million values tells from the others gives 1e-6."""


class Levels(NamedTuple):
    """Sorted levels of every row."""

    values: Tensor
    """float32[C, L], ascending"""
    thresholds: Tensor
    """float32[C, L - 1]: midpoints, rounded once"""
    codes: Tensor
    """int64[C, L]: bit j of ``codes[c, l]`` is the bit of basis vector j in level l"""


class Statistics(NamedTuple):
    """What least squares needs to know of the values of a row."""

    counts: Tensor
    """float64[C, L]: number of values per level"""
    totals: Tensor
    """float64[C, L]: their sum"""


def bit_table(bits: int, symmetric: bool, device: torch.device | None = None) -> Tensor:
    """Bits of every code: float64[2**bits, bits] of -1/+1 (`symmetric`, weights) or 0/1 (activations)."""
    codes = torch.arange(1 << bits, device=device)
    table = ((codes[:, None] >> torch.arange(bits, device=device)) & 1).to(torch.float64)
    return 2 * table - 1 if symmetric else table


def sorted_levels(basis: Tensor, symmetric: bool) -> Levels:
    """Levels of a basis in float64, rounded to float32 once; ties keep the order of their codes.

    Args:
        basis: float[C, K].
        symmetric: bits are -1/+1 instead of 0/1.
    """
    table = bit_table(basis.shape[1], symmetric, basis.device)
    # Summed rather than multiplied as a matrix: at most four float32 terms, so float64 is exact in any order.
    levels = (basis.double()[:, None, :] * table).sum(2)
    levels, codes = levels.sort(dim=1, stable=True)
    thresholds = (levels[:, 1:] + levels[:, :-1]) / 2
    return Levels(levels.float(), thresholds.float(), codes)


def quantize_exact(x: Tensor, levels: Levels) -> Tensor:
    """``levels[#(x > thresholds)]`` for every row, without statistics: float32[C, N] -> float32[C, N]."""
    index = torch.zeros_like(x, dtype=torch.int32)
    for threshold in levels.thresholds.unbind(1):
        index += x > threshold[:, None]
    if len(x) == 1:
        return levels.values[0].index_select(0, index.flatten()).view_as(x)
    return levels.values.gather(1, index.long())


def quantize_with_statistics(x: Tensor, levels: Levels) -> tuple[Tensor, Statistics]:
    """Quantize rows and collect count and sum per level in the same pass.

    The result is built from differences of levels, so it may be off `quantize_exact` by rounding of the last bit.

    Args:
        x: float32[C, N], rows contiguous.
        levels: of C rows.

    Returns:
        float32[C, N] and the statistics of every row.
    """
    rows, length = x.shape
    steps = torch.diff(levels.values, dim=1)
    quantized = torch.empty_like(x)
    # Column l holds what lies above threshold l - 1; column 0 holds everything.
    count = torch.zeros(rows, levels.values.shape[1], dtype=torch.float64, device=x.device)
    total = torch.zeros_like(count)
    count[:, 0] = length
    for row, column in _chunks(rows, length, x.device):
        values, out = x[row, column], quantized[row, column]
        out.copy_(levels.values[row, :1].expand_as(values))
        total[row, 0] += _total(values, rows)
        above = torch.empty_like(values)
        for level in range(1, levels.values.shape[1]):
            # Comparing into a float tensor is vectorised; a bool one and its use as a mask cost five times as much.
            torch.gt(values, levels.thresholds[row, level - 1 : level], out=above)
            out.addcmul_(above, steps[row, level - 1 : level])
            # A chunk is short enough for float32 to count exactly; on an accelerator it is everything.
            count[row, level] += above.sum(1) if x.device.type == "cpu" else above.sum(1, dtype=torch.float64)
            total[row, level] += _total(above.mul_(values), rows)
    return quantized, _per_level(count, total)


def quantize_with_statistics_functional(x: Tensor, levels: Levels) -> tuple[Tensor, Statistics]:
    """`quantize_with_statistics` without writes to slices, for `torch.compile` to fuse."""
    above = [x > threshold[:, None] for threshold in levels.thresholds.unbind(1)]
    count = [torch.full((len(x),), float(x.shape[1]), dtype=torch.float64, device=x.device)]
    count += [mask.sum(1, dtype=torch.float64) for mask in above]
    total = [x.sum(1, dtype=torch.float64)] + [torch.where(mask, x, 0.0).sum(1, dtype=torch.float64) for mask in above]
    return quantize_exact(x, levels), _per_level(torch.stack(count, 1), torch.stack(total, 1))


def solve_basis(statistics: Statistics, levels: Levels, basis: Tensor, symmetric: bool) -> Tensor:
    """Least-squares basis for given codes: solves ``(B'B + r I) v = B'x + r v_old`` for every row.

    Args:
        statistics: count and sum per level.
        levels: the levels the values were encoded with.
        basis: float[C, K], the current one; bits that never occur stay where they are.
        symmetric: weights (`WEIGHT_RIDGE`) or activations (`ACTIVATION_RIDGE`).

    Returns:
        float64[C, K].
    """
    bits = bit_table(basis.shape[1], symmetric, basis.device)[levels.codes]
    weighted = bits.transpose(1, 2) * statistics.counts[:, None, :]
    normal = weighted @ bits
    right = (bits.transpose(1, 2) @ statistics.totals[:, :, None]).squeeze(2)
    if symmetric:
        ridge = torch.full_like(right, WEIGHT_RIDGE)
    else:
        trace = normal.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
        # An all-zero batch leaves B'B = 0: the ridge alone then keeps the basis.
        ridge = (ACTIVATION_RIDGE * trace).clamp_min(ACTIVATION_RIDGE).expand_as(right)
    solution: Tensor = torch.linalg.solve(normal + torch.diag_embed(ridge), right + ridge * basis.double())
    return solution


def is_singular(statistics: Statistics, levels: Levels) -> Tensor:
    """Whether the least squares of activations have no single solution without their ridge: bool[].

    That is so where a bit never occurs, or never without another one. The normal equations hold counts, so that their
    determinant, relative to their diagonal, is 0 but for rounding.
    """
    bits = bit_table(levels.codes.shape[1].bit_length() - 1, symmetric=False, device=levels.codes.device)[levels.codes]
    normal = (bits.transpose(1, 2) * statistics.counts[:, None, :]) @ bits
    size = normal.diagonal(dim1=1, dim2=2).clamp_min(1.0).sqrt()
    determinant: Tensor = torch.linalg.det(normal / (size[:, :, None] * size[:, None, :]))
    return (determinant < SINGULAR).any()


def _per_level(count_above: Tensor, total_above: Tensor) -> Statistics:
    """Differences of cumulative counts and sums: [C, L] above each threshold -> [C, L] in each level."""
    zero = torch.zeros_like(count_above[:, :1])
    return Statistics(
        -torch.diff(count_above, dim=1, append=zero),
        -torch.diff(total_above, dim=1, append=zero),
    )


def _total(values: Tensor, rows: int) -> Tensor:
    """Row sums of a chunk in float64.

    Activations on a CPU are summed in float32, which is vectorised, pairwise and four times faster; their normal
    equations are well-conditioned. Those of weights are not where a channel uses few levels: `WEIGHT_RIDGE` would turn
    the rounding of float32 sums into a percent of the basis.
    """
    if rows == 1 and values.device.type == "cpu":
        return values.sum(1).double()
    return values.sum(1, dtype=torch.float64)


def _chunks(rows: int, length: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Row and column ranges that cover [rows, length]; everything at once on an accelerator."""
    if device.type != "cpu":
        yield slice(0, rows), slice(0, length)
        return
    height = max(1, CHUNK // max(length, 1))
    for top in range(0, rows, height):
        for left in range(0, length, CHUNK):
            yield slice(top, min(rows, top + height)), slice(left, min(length, left + CHUNK))
