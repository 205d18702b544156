"""What contractions cost on a GPU with tensor cores, relative to one another.

A model of instruction rates, not of measurements: whole instructions are counted, and a layer of one pixel takes as
long as its weights take to arrive, for each of them is used once.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from lqcompile.graph.plan import AnyQuantizer, Contraction
from lqcompile.graph.specs import LowBitWeights, Quantizer
from lqcompile.lowering.families import BYTE_FAMILIES
from lqcompile.schedules.cuda_tensor_tile import ROWS, WORDS
from lqcompile.schedules.formats import round_up

WORD_CHANNELS = {"b1mma": 32, "i8mma": 4}
"""Channels of a word of 32 bits, by family on tensor cores."""

MOST_PAIRS = {"b1mma": 16, "b1wgmma": 10}
"""Pairs of planes that the smallest tile has registers for, by family."""

BYTE_BITS = 8
"""Of a weight of the families that multiply bytes."""

SERIAL = 2.0
"""How many times as long the weights of one pixel take on CUDA cores: a warp walks the whole depth alone there."""


def fits(family: str, contraction: Contraction, quantizer: Quantizer) -> bool:
    """Whether the sums of all pairs of planes, those of offsets and masks included, fit the registers of a family."""
    weights = contraction.weights
    if not isinstance(weights, LowBitWeights):
        return False
    planes = weights.bits + bool(weights.offset.any()) + (contraction.geometry.group > 1)
    return bool(planes * (quantizer.bits + bool(quantizer.offset)) <= MOST_PAIRS[family])


def cost(family: str, contraction: Contraction, quantizer: AnyQuantizer | None, rates: Mapping[str, float]) -> float:
    """Time per multiply-accumulate.

    Args:
        family: kernel family.
        contraction: of low-bit or 8-bit weights.
        quantizer: of the codes that it reads.
        rates: multiply-accumulates of one pair of planes, or 8-bit products, per cycle, by family.
    """
    weights = contraction.weights
    pixels = prod(contraction.out_shape[1:])
    if pixels == 1:
        arriving = BYTE_BITS if family in BYTE_FAMILIES else weights.bits
        return arriving * (1.0 if family in WORD_CHANNELS else SERIAL)
    pairs = weights.bits * (quantizer.bits if quantizer is not None else 1)
    products = 1 if family in BYTE_FAMILIES else pairs
    if family not in WORD_CHANNELS:
        return products / rates[family]
    channels, taps = contraction.in_shape[0], prod(contraction.geometry.kernel)
    words = round_up(taps * -(-channels // WORD_CHANNELS[family]), WORDS)
    filled = pixels / round_up(pixels, ROWS) * channels * taps / (words * WORD_CHANNELS[family])
    # Grouped convolutions are dense ones with zeros.
    return float(products * contraction.geometry.group / (rates[family] * filled))
