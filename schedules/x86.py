"""x86-64: which kernel families a target has, and their register tiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lqcompile.target import Target

from .packed import Packed
from .problem import ConvShape, Family, SumRule, Tile
from .words import FloatFma
from .x86_amx import DotTiles
from .x86_amx_tile import best_group
from .x86_dot8 import DotPairs
from .x86_families import X86, DotVnni, PopcountBytes, PopcountCarrySave, PopcountLanes
from .x86_lut import Lookup


def machine(target: Target) -> X86:
    """The vector operations of `target`."""
    return X86(
        lanes=target.lanes,
        vnni=not {"avx512_vnni", "avx_vnni"}.isdisjoint(target.features),
        vector_popcount="avx512_vpopcntdq" in target.features,
        amx="amx_int8" in target.features,
    )


def popcount(isa: X86) -> PopcountLanes | PopcountCarrySave | PopcountBytes:
    """The popcount family of this machine."""
    if isa.vector_popcount:
        return PopcountLanes(isa=isa)
    return PopcountCarrySave(isa=isa) if isa.lanes == 16 else PopcountBytes(isa=isa)


def dot8(isa: X86) -> DotTiles | DotVnni | DotPairs:
    """The 8-bit dot-product family of this machine."""
    if isa.amx:
        return DotTiles(isa=isa)
    return DotVnni(isa=isa) if isa.vnni else DotPairs(isa=isa)


def family(isa: X86, name: str) -> Any:
    """The kernel family called `name`: ``popcount``, ``lut``, ``dot8``, ``float`` or ``packed``.

    Raises:
        KeyError: there is none.
    """
    makers: dict[str, Callable[[X86], Any]] = {
        "popcount": popcount,
        "dot8": dot8,
        "lut": lambda machine: Lookup(isa=machine),
        "float": lambda machine: FloatFma(isa=machine),
        "packed": lambda machine: Packed(isa=machine, group=machine.lanes.bit_length() - 1),
    }
    return makers[name](isa)


LATENCY = 5
"""Cycles from one step of an accumulator to the next."""


def _bandwidth(block_bytes: int) -> float:
    """Bytes per cycle of weights that every tile reads anew, by where they stay: L1, L2 or beyond."""
    if block_bytes <= 16 << 10:
        return 64.0
    return 28.0 if block_bytes <= 600 << 10 else 6.0


CARRY_SAVE_ACCUMULATORS = 4
"""Each needs four registers: three adder levels and a total."""


def tile(
    isa: X86, kind: Family, shape: ConvShape, rule: SumRule, pool: tuple[int, int], blocks: int | None = None
) -> Tile:
    """The register tile: as many accumulators as fit, few weight vectors and many pixels.

    Args:
        isa: instruction set.
        kind: kernel family.
        shape: loop nest.
        rule: how sums combine.
        pool: fused pooling window.
        blocks: vectors of channels, where they are given by packed weights.
    """
    if isinstance(kind, DotTiles):
        return best_group(shape, rule, blocks)
    pairs = shape.weight_planes * rule.act_planes
    window = pool[0] * pool[1]
    accumulators = CARRY_SAVE_ACCUMULATORS if kind.carry_save else isa.accumulators
    budget = max(1, accumulators // (pairs * window))
    columns = shape.tile_columns
    taps = shape.kernel[0] * shape.kernel[1] * shape.words
    vectors = -(-shape.blocks * isa.lanes // kind.channels)
    best: tuple[float, Tile] | None = None
    for count in (8, 4, 2, 1) if blocks is None else (blocks,):
        if vectors % count or (count > budget and count > 1 and blocks is None):
            continue
        most = max(1, min(columns, budget // count))
        pixels = -(-columns // -(-columns // most))  # tiles of equal width: the last one repeats as little as it can
        weights = shape.weight_planes * count * kind.vectors
        work = pairs * pixels * window * count
        loads = (weights + rule.act_planes * pixels * window) / 2
        block_bytes = taps * weights * isa.lanes * 4
        stream = weights * isa.lanes * 4 / _bandwidth(block_bytes)
        chain = LATENCY if work * kind.cycles < LATENCY else 0
        step = max(work * kind.cycles, loads, stream, chain)
        waste = -(-columns // pixels) * pixels / columns
        cost = step * waste / work
        if best is None or cost < best[0]:
            best = (cost, Tile(pixels=pixels, blocks=count))
    if best is None:
        raise ValueError(f"no tile of {blocks} vectors divides {vectors}")
    return best[1]
