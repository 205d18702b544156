"""x86-64: which kernel families a target has, and their register tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import Any

from lqcompile.target import Target

from . import elementwise as maps
from .depthwise import Depthwise, depthwise
from .family import Family
from .formats import Kind
from .packed import Packed
from .problem import ConvShape, SumRule, Tile
from .space import NEAR_BYTES, Space, distinct, input_bytes, orders, register_tiles
from .winograd import winograd_tile
from .words import FloatFma
from .x86_amx import DotTiles
from .x86_amx_tile import best_group, tile_groups
from .x86_bytes import DotBytes, DotBytesWide
from .x86_cells import FEWEST_SAVED, DotCells
from .x86_dot8 import DotPairs, DotRows, DotVnni
from .x86_families import X86, PopcountBytes, PopcountCarrySave, PopcountLanes
from .x86_lut import Lookup
from .x86_lut_pairs import PairLookup, pair_space, pair_tile
from .x86_winograd import Transformed

__all__ = ["depthwise", "family", "image_kind", "machine", "maps", "space", "tile"]


def machine(target: Target) -> X86:
    """The vector operations of `target`."""
    return X86(
        lanes=target.lanes,
        vnni=not {"avx512_vnni", "avx_vnni"}.isdisjoint(target.features),
        vector_popcount="avx512_vpopcntdq" in target.features,
        amx="amx_int8" in target.features,
        prefetches=target.lanes == 8,  # not measured with wider vectors
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
    """The kernel family called `name`: ``popcount``, ``lut``, ``planes``, ``dot8``, ``rows``, ``float`` or ``packed``.

    Raises:
        KeyError: there is none.
    """
    makers: dict[str, Callable[[X86], Any]] = {
        "popcount": popcount,
        "dot8": dot8,
        "rows": lambda machine: DotRows(isa=machine),
        "lut": lambda machine: Lookup(isa=machine),
        "planes": lambda machine: DotTiles(isa=machine, planes=True),
        "float": lambda machine: FloatFma(isa=machine),
        "packed": lambda machine: Packed(isa=machine, group=machine.lanes.bit_length() - 1, tiles=True),
    }
    return makers[name](isa)


def image_kind(isa: X86, saved: Callable[[], int]) -> Kind:
    """Format of an 8-bit image of few channels: what `DotCells` and `DotRows` read, or bytes for AMX and VNNI.

    Args:
        isa: instruction set.
        saved: what every layer that reads it saves on tiles of cells (`cells.saved_products`) at least.
    """
    return "u8" if isa.amx or (isa.vnni and saved() < FEWEST_SAVED) else "i16"


ISSUE = 6
"""Instructions that a cycle takes in."""


def _bandwidth(block_bytes: int) -> float:
    """Bytes per cycle of weights that every tile reads anew, by where they stay: L1, L2 or beyond."""
    if block_bytes <= 16 << 10:
        return 64.0
    return 28.0 if block_bytes <= 600 << 10 else 6.0


LOOP_INSTRUCTIONS = 3
"""Of the loop around a step."""

LOOKUP_ACCUMULATORS = 14
"""Byte counters beside two rows of a table: LLVM takes the weights from memory where that pays."""

UNROLLED = (1, 2, 4)
"""Words of a tap that a tuner may let one turn of the loop take. Byte products take the most there are: searches on
Zen 3 found layers of W3A3 at stride 2 1.03 to 1.22 times as fast with four as with one."""

WIDE_SUMS = (10, 16)
"""The fewest and the most sums of 512 bits that transformed tiles keep in registers, one vector of channels by as many
tiles: its weights take no more of the stack than those of two vectors of 256 bits do."""

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
        return best_group(shape, rule, blocks, kind.weight_planes)
    if isinstance(kind, Transformed | DotCells):
        return kind.tile(shape, blocks)
    if _on_tiles(kind, shape):
        return winograd_tile(shape, blocks) if isa.lanes == 8 else winograd_tile(shape, blocks, 1, WIDE_SUMS)
    if isinstance(kind, PairLookup):
        vectors = -(-shape.blocks * isa.lanes // kind.channels)
        return pair_tile(kind, shape, vectors, blocks)
    pairs = shape.weight_planes * rule.act_planes
    window = pool[0] * pool[1]
    budget = max(1, _accumulators(isa, kind) // (pairs * window))
    columns = shape.tile_columns
    taps = shape.kernel[0] * shape.kernel[1] * shape.words
    vectors = -(-shape.blocks * isa.lanes // kind.channels)
    unroll = gcd(shape.words, UNROLLED[-1]) if isinstance(kind, DotBytes | DotBytesWide) else 1
    best: tuple[tuple[float, ...], Tile] | None = None
    for count in (8, 4, 2, 1) if blocks is None else (blocks,):
        if vectors % count or (count > budget and count > 1 and blocks is None):
            continue
        weights = shape.weight_planes * count * kind.vectors
        block_bytes = taps * weights * isa.lanes * 4
        stream = weights * isa.lanes * 4 / _bandwidth(block_bytes)
        for pixels in range(1, max(1, min(columns, budget // count)) + 1):
            operands = rule.act_planes * pixels * window
            work = pairs * pixels * window * count
            loads = (weights + operands * (2 if kind.table_size else 1)) / 2
            issue = weights + operands * kind.operand_instructions + work * kind.instructions + LOOP_INSTRUCTIONS
            step = max(work * kind.cycles, loads, stream, issue / ISSUE, kind.latency)
            waste = -(-columns // pixels) * pixels / columns
            # Of two that are as fast, the one that reads less.
            cost = (round(step * waste / work, 3), loads / work, stream / work)
            if best is None or cost < best[0]:
                best = (cost, Tile(pixels=pixels, blocks=count, unroll=unroll))
    if best is None:
        raise ValueError(f"no tile of {blocks} vectors divides {vectors}")
    return best[1]


def space(
    isa: X86, kind: Family, shape: ConvShape, rule: SumRule, pool: tuple[int, int], counts: Sequence[int]
) -> Space:
    """What a tuner may choose.

    Args:
        isa: instruction set.
        kind: kernel family.
        shape: loop nest.
        rule: how sums combine.
        pool: fused pooling window.
        counts: vectors of channels that a tile may have, the best first.
    """
    best = tile(isa, kind, shape, rule, pool, blocks=counts[0])
    if isinstance(kind, DotTiles):
        return Space(tiles=distinct([best, *(group for count in counts for group in tile_groups(shape, rule, count))]))
    if _on_tiles(kind, shape):
        return Space(tiles=distinct([best, *(tile(isa, kind, shape, rule, pool, count) for count in counts)]))
    vectors = -(-shape.blocks * isa.lanes // kind.channels)
    if isinstance(kind, PairLookup):
        return pair_space(kind, shape, vectors, counts)
    held = shape.weight_planes * rule.act_planes * pool[0] * pool[1]
    tiles = register_tiles(best, counts, shape.tile_columns, _accumulators(isa, kind) / held)
    unrolled = sorted((count for count in UNROLLED if shape.words % count == 0), key=lambda count: count != best.unroll)
    # Carry-save adders take eight words at a time anyway, and depthwise kernels have no loop over words.
    looped = len(unrolled) > 1 and not isinstance(kind, Depthwise | PopcountCarrySave)
    knobs = {"unroll": tuple(unrolled)} if looped else {}
    # Tiles of depthwise kernels read channels of their own, and packed kernels expand weights once for all rows.
    if not isinstance(kind, Depthwise | Packed):
        knobs |= orders(shape, best, vectors, input_bytes(shape), NEAR_BYTES)
    return Space(tiles=tiles, knobs=knobs)


def _on_tiles(kind: Family, shape: ConvShape) -> bool:
    """Whether a family multiplies transformed tiles."""
    return isinstance(kind, Transformed | DotCells) or (isinstance(kind, Packed) and kind.tiled(shape))


def _accumulators(isa: X86, kind: Family) -> int:
    """Accumulators of a family that stay in registers."""
    if isinstance(kind, Lookup):
        return LOOKUP_ACCUMULATORS
    return CARRY_SAVE_ACCUMULATORS if isinstance(kind, PopcountCarrySave) else isa.accumulators
