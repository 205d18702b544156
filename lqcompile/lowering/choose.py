"""Which kernel family each contraction gets, and why.

The cost table holds what each family sustains on each instruction set: medians over the 3x3 layers of
``benchmarks/layers.py --target NAME``, in billions per second on one core. Only ratios within a row matter. The row of
``x86-avx512-vpopcntdq`` is 80 % and 75 % of the port bounds (341 and 128 per cycle), for want of a machine; that of
``x86-avx-vnni`` likewise (96 and 64).
Rows of ARM targets are models, not measurements: multiply-accumulates per cycle at the port bound of llvm-mca.
"""

from __future__ import annotations

from dataclasses import dataclass

from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import AnyQuantizer, Contraction, Region, is_integer
from lqcompile.graph.specs import LowBitWeights, Quantizer
from lqcompile.schedules.problem import Tile

RATES = {
    "x86-avx2": {"popcount": 212.0, "dot8": 33.0},
    "x86-avx-vnni": {"popcount": 77.0, "dot8": 48.0},
    "x86-avx512": {"popcount": 450.0, "dot8": 53.0},
    "x86-avx512-vnni": {"popcount": 400.0, "dot8": 236.0},
    "x86-avx512-vpopcntdq": {"popcount": 273.0, "dot8": 96.0},
    "arm-cpu": {"popcount": 85.0, "dot8": 8.0},
}
"""Multiply-accumulates: of one plane pair (popcount), of one 8-bit product (dot8)."""


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
    """

    family: str
    reason: str
    tile: Tile | None = None
    measured: tuple[tuple[Candidate, float], ...] = ()


def choose(contraction: Contraction, quantizer: AnyQuantizer | None, target: str) -> Choice:
    """The family for a contraction whose input holds codes of `quantizer` (None: float32).

    `quantizer` is that of the codes the contraction reads; decoded levels count as float32.
    """
    families = serving(contraction, quantizer)
    if families == ("float",):
        return Choice(family="float", reason=_float_reason(contraction, quantizer))
    if families == ("dot8",):
        return Choice(family="dot8", reason="8-bit weights on 8-bit codes")
    pairs = contraction.weights.bits * (quantizer.bits if quantizer else 0)
    if families == ("popcount",):
        return Choice(family="popcount", reason=f"bases are not integers, {pairs} plane pairs")
    popcount, dot8 = RATES[target]["popcount"] / pairs, RATES[target]["dot8"]
    best, other = ("popcount", "dot8") if popcount > dot8 else ("dot8", "popcount")
    ratio = max(popcount, dot8) / min(popcount, dot8)
    return Choice(family=best, reason=f"cost table: {ratio:.1f} x {other} at {pairs} plane pairs")


def force(region: Region, contraction: Contraction, quantizer: AnyQuantizer | None, family: str) -> Choice:
    """The family that was asked for, if it computes the contraction.

    Raises:
        UnsupportedError: it does not.
    """
    families = serving(contraction, quantizer)
    if family not in families:
        raise UnsupportedError(
            f"node {region.name!r} ({region.op_type}): found kernel family {family!r} asked for, expected "
            f"{' or '.join(families)}; ask for that or leave the choice to the cost table"
        )
    return Choice(family=family, reason="asked for")


def serving(contraction: Contraction, quantizer: AnyQuantizer | None) -> tuple[str, ...]:
    """The families that compute a contraction whose input holds codes of `quantizer` (None: float32)."""
    integer = is_integer(contraction, quantizer)
    if isinstance(contraction.weights, LowBitWeights) and isinstance(quantizer, Quantizer):
        return ("popcount", "dot8") if integer else ("popcount",)
    return ("dot8",) if integer else ("float",)


def _float_reason(contraction: Contraction, quantizer: AnyQuantizer | None) -> str:
    bits = contraction.weights.bits
    if bits == 32:
        return "weights are float32"
    if quantizer is None:
        return f"weight-only: {bits}-bit weights on float32 input"
    return f"{bits}-bit weights on codes of another kind"
