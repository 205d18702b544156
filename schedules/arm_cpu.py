"""ARM processors: which kernel families a target has, and their register tiles.

A family is one class: `Words` or `BitWords` (words.py) with `activation` (what a word of the input becomes), `step`
(one word into an accumulator) and, where accumulators are narrow, `flush`; or with a loop nest of its own (`builder`).
Those of ARM are in arm_popcount.py, arm_dot8.py and arm_float.py; `popcount` and `dot8` say which one a machine gets,
by what `Neon` (neon.py) knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lqcompile.target import Target

from . import elementwise as maps
from .arm_dot8 import Dot8
from .arm_float import FloatLanes
from .arm_popcount import Popcount, popcount_tile
from .depthwise import Depthwise, depthwise
from .family import Family
from .formats import Kind
from .neon import Neon
from .packed import Packed
from .problem import ConvShape, SumRule, Tile
from .space import Space, distinct, input_bytes, orders, register_tiles

__all__ = ["depthwise", "family", "image_kind", "machine", "maps", "space", "tile"]


FIRST_CACHE_BYTES = 32 << 10
"""Of most cores; their second-level cache is small and slow."""


def machine(target: Target) -> Neon:
    """The vector operations of `target`."""
    return Neon(
        dot_product="asimddp" in target.features,
        matrix="i8mm" in target.features,
        in_order=target.llvm.get("mcpu") == "cortex-a53",
    )


def popcount(isa: Neon) -> Popcount:
    """The popcount family of this machine."""
    if isa.dot_product:
        return Popcount(isa=isa, accumulator="uint32", cycles=6.0)
    return Popcount(isa=isa, accumulator="uint16" if isa.in_order else "uint8", cycles=6.0)


def dot8(isa: Neon) -> Dot8:
    """The family of 8-bit products of this machine."""
    return Dot8(isa=isa)


def family(isa: Neon, name: str) -> Any:
    """The kernel family called `name`: ``popcount``, ``dot8``, ``float`` or ``packed``.

    Raises:
        KeyError: there is none.
    """
    makers: dict[str, Callable[[Neon], Any]] = {
        "popcount": popcount,
        "dot8": dot8,
        "float": lambda machine: FloatLanes(isa=machine),
        "packed": lambda machine: Packed(isa=machine),
    }
    return makers[name](isa)


def image_kind(isa: Neon, saved: Callable[[], int]) -> Kind:  # noqa: ARG001 - as on other architectures
    """Format of an 8-bit image of few channels."""
    return "u8"


def tile(
    isa: Neon, kind: Family, shape: ConvShape, rule: SumRule, pool: tuple[int, int], blocks: int | None = None
) -> Tile:
    """The register tile: as many accumulators as fit.

    Args:
        isa: instruction set.
        kind: kernel family.
        shape: loop nest.
        rule: how sums combine.
        pool: fused pooling window.
        blocks: vectors of channels, where they are given by packed weights.
    """
    if isinstance(kind, Dot8):
        return kind.tiles(shape, pool, blocks)[0]
    if isinstance(kind, Popcount):
        return popcount_tile(isa, shape, rule, pool, blocks)
    budget = max(1, isa.accumulators // (pool[0] * pool[1]))
    count = 1 if blocks is None else blocks
    columns = shape.tile_columns
    most = max(1, min(columns, budget // count))
    return Tile(pixels=-(-columns // -(-columns // most)), blocks=count)


def space(
    isa: Neon, kind: Family, shape: ConvShape, rule: SumRule, pool: tuple[int, int], counts: Sequence[int]
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
    vectors = -(-shape.blocks * isa.lanes // kind.channels)
    # Tiles of depthwise kernels read channels of their own, and packed kernels expand weights once for all rows.
    fixed = isinstance(kind, Depthwise | Packed)
    knobs = {} if fixed else orders(shape, best, vectors, input_bytes(shape), FIRST_CACHE_BYTES)
    if isinstance(kind, Dot8):
        tiles = distinct([best, *(item for count in counts for item in kind.tiles(shape, pool, count))])
    elif isinstance(kind, Popcount):
        # Passes bound the registers, whatever the size of the tile.
        pixels = range(1, min(shape.tile_columns, isa.accumulators) + 1)
        tiles = distinct([best, *(Tile(pixels=most, blocks=count) for count in counts for most in pixels)])
    else:
        tiles = register_tiles(best, counts, shape.tile_columns, isa.accumulators / (pool[0] * pool[1]))
    return Space(tiles=tiles, knobs=knobs)
