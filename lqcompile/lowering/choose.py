"""Which kernel family each contraction gets, and why.

The cost table holds what each family sustains on each instruction set: medians over the 3x3 layers of
``benchmarks/layers.py --target NAME``, in billions per second on one core (``x86-avx2``: with ``--least``, on Zen 3).
Only ratios within a row matter. The row of ``x86-avx512-vpopcntdq`` is 80 % and 75 % of the port bounds (341 and 128
per cycle), for want of a machine; that of ``x86-avx-vnni`` likewise (96 and 64, and 75 % of 192 for lut). Those
of lut with AVX-512 are estimates too: per cycle its ports allow what Zen 3's do, of which 60 % is what whole layers
reach there (205 pairs looked up two at a time), at the 2.5 GHz of the rest of the row. That of
``x86-amx`` is the ratio to popcount that a forerunner of the kernels had on Sapphire Rapids, geometric mean of six
layers, for full tiles; a plane pair costs as much as an 8-bit product.
Rows of ARM targets are a model, not measurements: whole kernels of a 3x3 layer of 256 channels at 14x14, in
multiply-accumulates per cycle, by ``benchmarks/arm_model.py``. Cortex-A72 stands for ARMv8-A, Neoverse N1 for those
with dot products, V1 for those with matrix products, twice N1 for Apple M1 with its four NEON pipes; for 32-bit ARM,
instructions counted on the 64-bit unit of Cortex-A7.
Rows of NVIDIA GPUs are instruction rates per cycle and multiprocessor, not measurements: 16 POPC of 32 bits and 64 DP4A
(CUDA C++ Programming Guide, arithmetic instructions), and `mma` of bytes and of bits at 8 times that rate (A100
whitepaper). That of ``cuda-h200`` has 0.54 binary `mma` a cycle, which others measured on a GH200, and bytes at the
dense peak of the data sheet, 4.7 times less: more than `mma` is likely to reach there, so bits are chosen with caution.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import AnyQuantizer, Contraction, Region, is_depthwise, is_integer
from lqcompile.graph.specs import LowBitWeights, Quantizer
from lqcompile.lowering import tensor_cores
from lqcompile.lowering.parameters import kernel_shape, sixteen_bit_run
from lqcompile.lowering.winograd import TileProof, fits
from lqcompile.schedules.formats import round_up
from lqcompile.schedules.problem import Tile
from lqcompile.schedules.x86_lut_pairs import levels_group
from lqcompile.schedules.x86_winograd import FEWEST_SUMMED
from lqcompile.target import find

RATES = {
    "x86-avx2": {"popcount": 306.0, "lut": 450.0, "dot8": 75.0},
    "x86-avx-vnni": {"popcount": 77.0, "lut": 144.0, "dot8": 48.0},
    "x86-avx512": {"popcount": 450.0, "lut": 410.0, "dot8": 53.0},
    "x86-avx512-vnni": {"popcount": 400.0, "lut": 410.0, "dot8": 236.0},
    "x86-avx512-vpopcntdq": {"popcount": 273.0, "dot8": 96.0},
    "x86-amx": {"popcount": 273.0, "dot8": 396.0, "planes": 396.0},
    "arm-neon": {"popcount": 70.0, "dot8": 7.9},
    "arm-dotprod": {"popcount": 76.0, "dot8": 27.0},
    "arm-i8mm": {"popcount": 153.0, "dot8": 96.0},
    "raspberry-pi-3": {"popcount": 41.0, "dot8": 4.7},
    "raspberry-pi-4": {"popcount": 70.0, "dot8": 7.9},
    "raspberry-pi-5": {"popcount": 76.0, "dot8": 27.0},
    "neoverse-n1": {"popcount": 76.0, "dot8": 27.0},
    "neoverse-v1": {"popcount": 153.0, "dot8": 96.0},
    "apple-m1": {"popcount": 152.0, "dot8": 54.0},
    "armv7": {"popcount": 20.0, "dot8": 2.0},
    "cuda-ptx": {"b1mma": 16384.0, "i8mma": 2048.0, "popcount": 512.0, "dot8": 256.0},
    "cuda-a100": {"b1mma": 16384.0, "i8mma": 2048.0, "popcount": 512.0, "dot8": 256.0},
    "cuda-h200": {"b1mma": 17700.0, "i8mma": 3770.0, "popcount": 512.0, "dot8": 256.0},
    "jetson-orin": {"b1mma": 16384.0, "i8mma": 2048.0, "popcount": 512.0, "dot8": 256.0},
}
"""Multiply-accumulates: of one plane pair (popcount, lut, planes, b1mma), of one 8-bit product (dot8, i8mma).

Targets offer the families of their row; all serve 8-bit and float weights.
"""

MEASURED_FAMILIES = {"cuda-h200": ("b1wgmma",)}
"""Families that a target offers beside those of its row, and that only measuring chooses: no rate of them is known."""

PAIR_GAINS = {0: 1.25, 2: 1.4, 4: 1.75}
"""Of lut where two planes of codes, or two pixels of one plane, are looked up at once, over one at a time: by the
look-ups of integer levels whose bytes can be added, 0 for counts (best times of the 3x3 layers of ResNet-18, W2A2 and
W1A1, on Zen 3)."""

BYTE_RATES = {"x86-avx2": 141.0, "x86-avx512": 106.0}
"""Of dot8 where long runs of products can be summed in 16 bits; a run of n words takes one step more. That of
``x86-avx512`` is twice its rate of VPMADDWD, as the ports allow: not measured."""

TILES_GAIN = {
    "x86-avx2": {4: 1.25, 16: 1.6},
    "x86-avx512": {4: 1.25, 16: 1.6},
    "x86-avx512-vnni": {8: 1.3, 16: 1.6},
    "x86-avx512-vpopcntdq": {8: 1.3, 16: 1.6},
    "x86-avx-vnni": {8: 1.3, 16: 1.6},
}
"""Of dot8 on transformed tiles (3x3 taps, stride 1) over the same without, by the words of an input pixel. On Zen 3
1.2 to 1.7 at 16 channels, 1.3 at 32, 1.5 to 1.9 from 64 on; the others are estimates (docs/x86.md). Where rows or
columns are odd, the last tiles compute outputs twice."""

TILE_ROWS = {"x86-amx": 16}
"""Outputs that a tile register holds: fewer leave it part empty, a batch-1 linear layer all but one row."""

CACHED_WEIGHTS = 1 << 19
"""Bytes of weights that stay in the second-level cache."""

STREAMED_BYTES = {
    "x86-avx2": 6.0,
    "x86-avx512": 6.0,
    "x86-avx512-vnni": 8.0,
    "x86-avx512-vpopcntdq": 8.0,
    "x86-avx-vnni": 8.0,
}
"""How many times as long dot8 takes where one pixel uses each weight once, from beyond that cache: on Zen 3, a linear
layer of 4096x4096 ran at 23 and not at 141 GMAC/s (731 us; popcount took 192 us for W2A2). With VPDPBUSD a forerunner
of the kernels took 590 us for it on Sapphire Rapids, popcount 148; the row of `x86-avx512` is an estimate."""

LUT_ROWS = 1000.0
"""What it costs to find the rows of the table for a word of an input pixel, once for all outputs, in
multiply-accumulates: fits the layers of ResNet-20 with 16 input channels on Zen 3 (W1A2 and W2A2, three shapes)."""

WORD_CHANNELS = 32
"""Input channels of a word of bit planes: popcount multiplies the rest of the last word in vain."""

LUT_LARGEST_SUM = (1 << 16) - 1
"""Its totals are 16 bits wide: it serves no layer of more inputs."""


FLOAT_FAMILIES = ("packed", "float")
"""Families that sum in float32 and so are not exact: on packed weights of a weight-only layer, and on float weights."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A way to compute a contraction: a kernel family and its register tile (None: what the schedule's model picks)."""

    family: str
    tile: Tile | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A kernel family and the reason for it, in words for people.

    Args:
        family: kernel family.
        reason: why.
        tile: register tile, None for what the schedule's model picks.
        measured: every candidate that was timed, with its median in microseconds; empty without a measurement.
        estimates: where the cost table decided, every family that serves with its time, as a multiple of the least.
    """

    family: str
    reason: str
    tile: Tile | None = None
    measured: tuple[tuple[Candidate, float], ...] = ()
    estimates: tuple[tuple[str, float], ...] = ()


def choose(contraction: Contraction, quantizer: AnyQuantizer | None, target: str) -> Choice:
    """The family for a contraction whose input holds codes of `quantizer` (None: float32).

    `quantizer` is that of the codes the contraction reads; decoded levels count as float32.
    """
    served = serving(contraction, quantizer, target)
    families = tuple(family for family in served if family not in MEASURED_FAMILIES.get(target, ()))
    if families[0] in FLOAT_FAMILIES:
        return Choice(family=families[0], reason=_float_reason(contraction, quantizer))
    if families == ("dot8",):
        return Choice(family="dot8", reason="8-bit weights on 8-bit codes")
    if "dot8" in families and is_depthwise(contraction):
        return Choice(family="dot8", reason="depthwise: multiplied lane by lane, without structural zeros")
    low_bit = isinstance(contraction.weights, LowBitWeights)
    pairs = contraction.weights.bits * (quantizer.bits if quantizer else 0)
    if families == ("popcount",):
        return Choice(family="popcount", reason=f"bases are not integers, {pairs} plane pairs")
    costs = sorted((_cost(family, contraction, quantizer, target), family) for family in families)
    (least, best), (more, other) = costs[:2]
    return Choice(
        family=best,
        reason=f"cost table: {more / least:.1f} x {other} at {f'{pairs} plane pairs' if low_bit else '8 bits'}",
        estimates=tuple((family, cost / least) for cost, family in costs),
    )


def _cost(family: str, contraction: Contraction, quantizer: AnyQuantizer | None, target: str) -> float:
    """Time per multiply-accumulate, relative to the other families."""
    if "b1mma" in RATES[target]:
        return tensor_cores.cost(family, contraction, quantizer, RATES[target])
    rate = RATES[target][family]
    if family in ("dot8", "planes") and target in TILE_ROWS:
        rate *= _filled(contraction, TILE_ROWS[target])
    if family == "dot8":
        run = _run(contraction, quantizer) if target in BYTE_RATES else 0
        product = (run + 1) / (run * BYTE_RATES[target]) if run else 1 / rate
        product /= _tiles_gain(contraction, quantizer, target)
        alone = contraction.out_shape[1:] == (1, 1) and prod(contraction.weights.shape) > CACHED_WEIGHTS
        return STREAMED_BYTES.get(target, 1.0) * product if alone else product
    cost: float = contraction.weights.bits * (quantizer.bits if quantizer else 0) / rate
    channels = contraction.in_shape[0]
    words: float = round_up(channels, WORD_CHANNELS) / channels
    if family != "lut":
        return cost * words
    outputs, height, width = contraction.out_shape
    if height * width == 1:
        # One pixel uses each weight once: bytes decide, and look-ups take weights of twice the size.
        return 2 * cost * words
    # A vector holds an output channel in each byte: others are multiplied in vain.
    padded: int = round_up(outputs, find(target).vector_bits // 8)
    return cost * padded / outputs / _lut_gain(contraction, quantizer) * _lut_rows(contraction)


def _lut_gain(contraction: Contraction, quantizer: AnyQuantizer | None) -> float:
    """What looking up two planes of codes, or two pixels, at once gains."""
    weights = contraction.weights
    if not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
        return 1.0
    if contraction.geometry.group > 1:
        return 1.0
    if quantizer.bits == 1 or not is_integer(contraction, quantizer):
        return PAIR_GAINS[0]
    ones = weights.bits_array().reshape(len(weights.scale), weights.bits, -1).sum(axis=2, dtype=np.int64).max()
    group = levels_group(tuple(int(value) for value in quantizer.basis), int(ones))
    return PAIR_GAINS[max(least for least in PAIR_GAINS if least <= group)]


def _lut_rows(contraction: Contraction) -> float:
    """What finding rows of the table adds, as a factor: a pass over what windows read."""
    channels, height, width = contraction.in_shape
    if contraction.geometry.kernel == (1, 1):
        _, height, width = contraction.out_shape
    words = height * width * -(-channels // WORD_CHANNELS)
    products = prod(contraction.weights.shape) * prod(contraction.out_shape[1:])
    return 1.0 + LUT_ROWS * words / products


def _filled(contraction: Contraction, rows: int) -> float:
    """Share of the rows of tile registers that hold outputs: along image rows, or on over their ends (stride 1)."""
    _, height, width = contraction.out_shape
    geometry = contraction.geometry
    along: float = width / round_up(width, rows)
    if geometry.strides != (1, 1):
        return along
    padded = contraction.in_shape[2] + geometry.pads[1] + geometry.pads[3]
    on: float = height * width / round_up((height - 1) * padded + width, rows)
    return max(along, on)


def _run(contraction: Contraction, quantizer: AnyQuantizer | None) -> int:
    """Words of products that can be summed in 16 bits; 0: not even one."""
    weights = contraction.weights
    if not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
        return 0
    return sixteen_bit_run(weights.integers().reshape(kernel_shape(contraction)), int(quantizer.basis.sum()))


def _tiles_gain(contraction: Contraction, quantizer: AnyQuantizer | None, target: str) -> float:
    """What transformed tiles gain over plain byte products; 1 where they do not serve."""
    weights, channels = contraction.weights, contraction.in_shape[0]
    gains = [gain for words, gain in TILES_GAIN.get(target, {}).items() if 4 * words <= channels]
    if not gains or not fits(contraction, (1, 1)):
        return 1.0
    if not isinstance(weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
        return 1.0
    proof = TileProof(weights.integers().reshape(kernel_shape(contraction)), int(quantizer.basis.sum()))
    serves = proof.sixteen_bit_run() >= FEWEST_SUMMED if target in BYTE_RATES else proof.fits_bytes()
    if not serves:
        return 1.0
    _, height, width = contraction.out_shape
    filled: float = height * width / (round_up(height, 2) * round_up(width, 2))
    return filled * max(gains)


def force(region: Region, contraction: Contraction, quantizer: AnyQuantizer | None, family: str, target: str) -> Choice:
    """The family that was asked for, if it computes the contraction.

    Raises:
        UnsupportedError: it does not.
    """
    families = serving(contraction, quantizer, target)
    if family not in families:
        raise UnsupportedError(
            f"node {region.name!r} ({region.op_type}): found kernel family {family!r} asked for, expected "
            f"{' or '.join(families)}; ask for that or leave the choice to the cost table"
        )
    return Choice(family=family, reason="asked for")


def serving(contraction: Contraction, quantizer: AnyQuantizer | None, target: str) -> tuple[str, ...]:
    """The families that compute a contraction whose input holds codes of `quantizer` (None: float32)."""
    integer = is_integer(contraction, quantizer)
    if isinstance(contraction.weights, LowBitWeights) and not isinstance(quantizer, Quantizer):
        return ("packed", "float") if contraction.geometry.group == 1 else ("float",)
    tensor = "i8mma" in RATES[target] and not is_depthwise(contraction)
    byte_families = ("i8mma", "dot8") if tensor else ("dot8",)
    if not isinstance(contraction.weights, LowBitWeights) or not isinstance(quantizer, Quantizer):
        return byte_families if integer else ("float",)
    inputs = contraction.in_shape[0] * contraction.geometry.kernel[0] * contraction.geometry.kernel[1]
    pairwise = ["popcount"]
    if "lut" in RATES[target] and inputs <= LUT_LARGEST_SUM:
        pairwise.append("lut")
    if "planes" in RATES[target]:
        pairwise.append("planes")
    binary = ("b1mma", *MEASURED_FAMILIES.get(target, ())) if "b1mma" in RATES[target] else ()
    pairwise += [family for family in binary if tensor_cores.fits(family, contraction, quantizer)]
    return (*pairwise, *byte_families) if integer else tuple(pairwise)


def _float_reason(contraction: Contraction, quantizer: AnyQuantizer | None) -> str:
    bits = contraction.weights.bits
    if bits == 32:
        return "weights are float32"
    if quantizer is None:
        return f"weight-only: {bits}-bit weights on float32 input"
    return f"{bits}-bit weights on codes of another kind"
