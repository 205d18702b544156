"""What contractions cost on a GPU with binary tensor cores, relative to one another.

A model of instruction rates, not of measurements: whole instructions are counted, and a layer of one pixel takes as
long as its weights take to arrive, for each of them is used once.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from lqcompile.graph.plan import AnyQuantizer, Contraction
from lqcompile.graph.specs import LowBitWeights, Quantizer
from lqcompile.schedules.formats import round_up

TILE_PIXELS = 32
"""Pixels of the smallest tile of a thread block (schedules/cuda_b1mma.py)."""

STEP_BITS = 256
"""Depth of one instruction."""

MOST_PAIRS = 16
"""Pairs of planes that the smallest tile has registers for."""

BYTE_BITS = 8
"""Of a weight of the family dot8."""


def fits(contraction: Contraction, quantizer: Quantizer) -> bool:
    """Whether the sums of all pairs of planes, those of offsets and masks included, fit the registers."""
    weights = contraction.weights
    if not isinstance(weights, LowBitWeights):
        return False
    planes = weights.bits + bool(weights.offset.any()) + (contraction.geometry.group > 1)
    return bool(planes * (quantizer.bits + bool(quantizer.offset)) <= MOST_PAIRS)


def cost(family: str, contraction: Contraction, quantizer: AnyQuantizer | None, rates: Mapping[str, float]) -> float:
    """Time per multiply-accumulate.

    Args:
        family: kernel family.
        contraction: of low-bit weights.
        quantizer: of the codes that it reads.
        rates: multiply-accumulates of one pair of planes, or 8-bit products, per cycle, by family.
    """
    weights = contraction.weights
    pixels = prod(contraction.out_shape[1:])
    pairs = weights.bits * (quantizer.bits if quantizer is not None else 1)
    if pixels == 1:
        arriving = BYTE_BITS if family == "dot8" else weights.bits
        return arriving * (pairs + 1.0 if family == "b1mma" else 1.0)
    if family == "dot8":
        return 1 / rates[family]
    if family != "b1mma":
        return pairs / rates[family]
    depth = contraction.in_shape[0] * prod(contraction.geometry.kernel)
    filled = pixels / round_up(pixels, TILE_PIXELS) * depth / round_up(depth, STEP_BITS)
    return float(pairs / (rates[family] * filled))
