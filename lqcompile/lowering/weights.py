"""Weights as each kernel family reads them, and how the sums over them combine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import is_integer
from lqcompile.graph.specs import Int8Weights, LowBitWeights, Quantizer
from lqcompile.lowering import parameters as pack
from lqcompile.lowering.families import BYTE_FAMILIES
from lqcompile.lowering.sums import Sums
from lqcompile.lowering.winograd import TileProof, cells_serve, fits
from lqcompile.schedules.problem import SumRule

LARGEST_CODE = 255
"""Of 8-bit activations, as they are stored."""

ONE_SUM = SumRule(act_integers=(1,), weighted=False)
"""Of families that form a single integer sum."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedWeights:
    """What a kernel reads of the weights.

    Args:
        family: the kernel family, made for these values.
        rule: how sums combine.
        words: [O, planes, kh, kw, words, vectors].
        basis: weight basis [O, basis planes]; empty where the rule needs none.
    """

    family: Any
    rule: SumRule
    words: npt.NDArray[Any]
    basis: npt.NDArray[Any]


def pack_weights(
    sums: Sums, mode: str, schedule: Any, isa: Any, *, depthwise: bool, pool: tuple[int, int]
) -> PackedWeights:
    """The weights of a contraction for its kernel family.

    Args:
        sums: what the kernel forms.
        mode: of the epilogue.
        schedule: module of the target's schedules.
        isa: of the target.
        depthwise: whether each output channel reads its own input channel by vectors.
        pool: window of a fused max-pooling.
    """
    if sums.family == "float":
        return _float(sums, schedule, isa, depthwise=depthwise)
    family = schedule.family(isa, sums.family)
    if sums.family == "packed":
        planes = pack.weight_planes(sums.operation, sums.flips)
        bits = sums.operation.weights.bits
        rule = SumRule(signed_planes=bits, weight_basis=planes.basis.shape[1])
        return PackedWeights(
            family=family, rule=rule, words=pack.pack_bit_words(planes.bits[:, :bits]), basis=planes.basis
        )
    if sums.family in BYTE_FAMILIES:
        return _dot8(sums, schedule, isa, family, depthwise=depthwise, pool=pool)
    return _planes(sums, mode, family)


def _float(sums: Sums, schedule: Any, isa: Any, *, depthwise: bool) -> PackedWeights:
    operation = sums.operation
    sign = np.where(sums.flips, -1, 1).reshape(-1, 1, 1, 1).astype(np.float32)
    values = operation.weights.dequantize().reshape(pack.kernel_shape(operation)) * sign
    if depthwise:
        family = schedule.depthwise(isa, "float32", "float32")
        words = values.astype(np.float32)[..., None, None]
    else:
        family = schedule.family(isa, "float")
        dense = pack.dense(values, operation.geometry, operation.in_shape[0])
        words = pack.pack_float_words(dense.astype(np.float32))
    return PackedWeights(family=family, rule=SumRule(), words=words, basis=np.empty(0))


def _dot8(sums: Sums, schedule: Any, isa: Any, family: Any, *, depthwise: bool, pool: tuple[int, int]) -> PackedWeights:
    operation = sums.operation
    weights = operation.weights
    integers = weights.values if isinstance(weights, Int8Weights) else None
    if isinstance(weights, LowBitWeights):
        integers = weights.integers()
    if integers is None:
        raise TypeError("dot8 needs integer weights")
    sign = np.where(sums.flips, -1, 1).reshape(-1, 1, 1, 1).astype(np.int8)
    signed = integers.reshape(pack.kernel_shape(operation)) * sign
    if depthwise:
        family, words = schedule.depthwise(isa, "int32", "int8"), signed[..., None, None]
        return PackedWeights(family=family, rule=ONE_SUM, words=words, basis=np.empty(0))
    dense = pack.dense(signed, operation.geometry, operation.in_shape[0])
    if sums.kind == "i16":
        rows = schedule.family(isa, "rows")
        family = rows.with_cells(lambda: pool == (1, 1) and cells_serve(operation, dense))
        words = pack.pack_row_words(dense)
        return PackedWeights(family=family, rule=ONE_SUM, words=words, basis=np.empty(0))
    largest = int(sums.quantizer.basis.sum()) if isinstance(sums.quantizer, Quantizer) else LARGEST_CODE

    def run() -> int:
        # A window of words starts anywhere: what is proven for longer runs does not hold for grouped layers.
        found = pack.sixteen_bit_run(dense, largest)
        return found if operation.geometry.group == 1 else min(found, 1)

    tiles = family.with_tiles(TileProof(dense, largest)) if fits(operation, pool) else None
    family = tiles or family.with_run(run)
    if isinstance(weights, LowBitWeights) and operation.geometry.group == 1:
        family = family.for_weights(weights.basis.astype(np.int64))
    words = pack.pack_byte_words(dense, family.vectors)
    return PackedWeights(family=family, rule=ONE_SUM, words=words, basis=np.empty(0))


def _planes(sums: Sums, mode: str, family: Any) -> PackedWeights:
    """Pairs of weight and activation planes."""
    quantizer = sums.quantizer
    if not isinstance(quantizer, Quantizer):
        raise TypeError("plane pairs need low-bit codes")
    planes = pack.weight_planes(sums.operation, sums.flips)
    words = _plane_words(sums.family, planes)
    signs = sums.family == "planes"  # which are zero where a group has no weight: no mask is needed
    mask_plane = -1 if signs else planes.mask_plane
    if signs and sums.operation.geometry.group == 1:
        family = family.for_weights(np.ones((len(planes.bits), 1), np.int64))
    most = int(planes.bits.sum(axis=(2, 3, 4), dtype=np.int64).max())
    if mode == "integer" and sums.one_pair():
        rule = replace(ONE_SUM, bipolar=not signs, mask_plane=mask_plane)
        family = family if mask_plane >= 0 else family.for_codes(1, (1,), most)
        return PackedWeights(family=family, rule=rule, words=words, basis=np.empty(0))
    multipliers = planes.integers if is_integer(sums.operation, quantizer) else None
    integer = multipliers is not None
    ones = float(quantizer.offset) != 0.0
    basis = [float(quantizer.scale) * float(value) for value in quantizer.basis]
    rule = SumRule(
        act_planes=quantizer.bits + ones,
        bipolar=not signs,
        mask_plane=mask_plane,
        act_integers=tuple(int(value) for value in quantizer.basis) if integer else (),
        act_basis=() if integer else (*basis, *([float(quantizer.offset)] if ones else [])),
        weight_basis=planes.basis.shape[1],
        weighted=not (mode == "real" and sums.inner_only()),
    )
    if mask_plane < 0:
        family = family.for_codes(rule.act_planes, rule.act_integers, most)
    if family.combines_codes:
        rule = replace(rule, act_planes=1, act_integers=(1,))
    return PackedWeights(
        family=family, rule=rule, words=words, basis=planes.basis if multipliers is None else multipliers
    )


def _plane_words(family: str, planes: pack.PlaneSet) -> npt.NDArray[Any]:
    """Weight planes as the family reads them: words, nibbles, or signs in bytes."""
    if family == "planes":
        return pack.pack_sign_words(planes)
    return pack.pack_nibbles(planes.bits) if family == "lut" else pack.pack_bit_words(planes.bits)
