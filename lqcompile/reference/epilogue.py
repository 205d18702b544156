"""The canonical float64 epilogue: from integer sums to the real value, and the stages that follow it.

Each product and each sum is rounded once to float64 and the order is fixed, so that every backend can follow it bit for
bit: weight planes ascending, activation planes ascending inside, the offset last in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import AddValue, Affine, Clamp, Geometry, HardSwish, Leaky, MaxPool, MultiplyValue, Stage
from lqcompile.reference.sums import windows

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


def combine_planes(
    sums: Int64,
    weight_basis: Float64,
    act_basis: Float64,
    *,
    weight_offset: tuple[Float64, Int64] | None = None,
    act_offset: tuple[float, Int64, Int64] | None = None,
) -> Float64:
    """``y = sum_i v_i * (sum_j u_j * S_ij)``, with an offset as one more basis vector, last.

    Args:
        sums: int64[N, Kw, Ka, O, OH, OW], the S_ij.
        weight_basis: v, float64[O, Kw].
        act_basis: u, float64[Ka].
        weight_offset: w0 float64[O] and the window sums int64[N, Ka, O, OH, OW]; None where w0 is 0 throughout.
        act_offset: a0, the valid sums int64[Kw, O, OH, OW] and the valid counts int64[OH, OW]; None where a0 is 0.

    Returns:
        float64[N, O, OH, OW].
    """
    terms = []
    for i in range(sums.shape[1]):
        column = None if act_offset is None else (act_offset[0], act_offset[1][i])
        terms.append(weight_basis[:, i, None, None] * _inner(sums[:, i], act_basis, column))
    if weight_offset is not None:
        column = None if act_offset is None else (act_offset[0], act_offset[2])
        terms.append(weight_offset[0][:, None, None] * _inner(weight_offset[1], act_basis, column))
    return _ordered_sum(terms)


def scale_integers(total: Int64, weight_scale: npt.NDArray[np.floating], act_scale: float) -> Float64:
    """``y = T * (s_w * s_a)`` per output channel.

    Args:
        total: T, int64[N, O, OH, OW].
        weight_scale: s_w, float[O].
        act_scale: s_a.

    Returns:
        float64[N, O, OH, OW].
    """
    scale = weight_scale.astype(np.float64) * np.float64(act_scale)
    result: Float64 = total.astype(np.float64) * scale[:, None, None]
    return result


def apply_stages(x: Float64, stages: Sequence[Stage], values: Mapping[str, npt.NDArray[np.floating]]) -> Float64:
    """Apply the stages of a region or an output, in float64.

    Args:
        x: float64[N, C, ...].
        stages: in order.
        values: what joins in, by name: float of the shape of `x` or one that reshapes to it; of `MultiplyValue` also
            one number per channel.

    Returns:
        float64[N, C, ...].
    """
    for stage in stages:
        if isinstance(stage, Affine):
            along = (-1, *([1] * (x.ndim - 2)))
            x = x * stage.scale.reshape(along) + stage.shift.reshape(along)
        elif isinstance(stage, Clamp):
            x = np.minimum(np.maximum(x, stage.low), stage.high)
        elif isinstance(stage, Leaky):
            x = np.maximum(x, 0.0) + stage.slope.reshape(-1, *([1] * (x.ndim - 2))) * np.minimum(x, 0.0)
        elif isinstance(stage, HardSwish):
            x = x * np.minimum(np.maximum(x * stage.alpha + stage.beta, 0.0), 1.0)
        elif isinstance(stage, MaxPool):
            x = max_pool(x, stage)
        elif isinstance(stage, AddValue):
            x = x + values[stage.name].reshape(x.shape)
        elif isinstance(stage, MultiplyValue):
            x = x * as_factor(values[stage.name], x.shape)
    return x


def as_factor(value: npt.NDArray[np.floating], shape: tuple[int, ...]) -> npt.NDArray[np.floating]:
    """What multiplies a tensor of `shape`, reshaped to broadcast over it: as many entries, or one per channel."""
    return value.reshape(shape if value.size == np.prod(shape) else (*shape[:2], *[1] * (len(shape) - 2)))


def max_pool(x: Float64, pool: MaxPool) -> Float64:
    """Maximum over windows; positions outside the image do not take part: float64[N, C, H, W] -> [N, C, OH, OW]."""
    geometry = Geometry(kernel=pool.kernel, strides=pool.strides, pads=pool.pads)
    view = windows(x, geometry, fill=-np.inf).astype(np.float64, copy=False)
    largest = view[..., 0, 0]
    for i in range(pool.kernel[0]):
        for j in range(pool.kernel[1]):
            largest = np.maximum(largest, view[..., i, j])
    return largest


def _inner(sums: Int64, act_basis: Float64, column: tuple[float, Int64] | None) -> Float64:
    """``sum_j u_j * S_j``, the offset last: int64[N, Ka, ...] -> float64[N, ...]."""
    terms = [unit * sums[:, j].astype(np.float64) for j, unit in enumerate(act_basis)]
    if column is not None:
        terms.append(np.broadcast_to(column[0] * column[1].astype(np.float64), terms[0].shape))
    return _ordered_sum(terms)


def _ordered_sum(terms: Sequence[Float64]) -> Float64:
    """First to last, each sum rounded once."""
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
