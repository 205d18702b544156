"""NVIDIA GPUs: which kernel families a target has, and their tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lqcompile.target import Target

from . import cuda_maps as maps
from .cuda_b1mma import B1Mma
from .cuda_contraction import WarpTile
from .cuda_i8mma import I8Mma
from .cuda_packed import Packed
from .cuda_space import tensor_space, warp_space
from .cuda_tensor import TensorWords
from .cuda_tensor_tile import TensorTile, tensor_tile
from .cuda_warp import Warp
from .cuda_wgmma import B1Wgmma, warpgroup_space, warpgroup_tile
from .cuda_words import Depthwise, Dot8, FloatFma, Popcount
from .family import Family
from .formats import Kind
from .problem import ConvShape, SumRule
from .space import Space

__all__ = ["depthwise", "family", "image_kind", "machine", "maps", "space", "tile"]

PIXELS = 8
"""Most pixels of a warp's tile: weights are read once for all of them."""


def machine(target: Target) -> Warp:
    """The vector operations of `target`."""
    return Warp(multiprocessors=target.multiprocessors)


def family(isa: Warp, name: str) -> Any:
    """The kernel family called `name`.

    Args:
        isa: of the machine.
        name: ``b1mma``, ``b1wgmma``, ``i8mma``, ``popcount``, ``dot8``, ``float`` or ``packed``.

    Raises:
        KeyError: there is none.
    """
    makers: dict[str, Callable[[], Any]] = {
        "b1mma": lambda: B1Mma(isa=isa),
        "b1wgmma": lambda: B1Wgmma(isa=isa),
        "i8mma": lambda: I8Mma(isa=isa),
        "popcount": lambda: Popcount(isa=isa),
        "dot8": lambda: Dot8(isa=isa),
        "float": lambda: FloatFma(isa=isa),
        "packed": lambda: Packed(isa=isa),
    }
    return makers[name]()


def depthwise(isa: Warp, accumulator: str, weight_dtype: str) -> Depthwise:
    """The family of depthwise convolutions."""
    return Depthwise(isa=isa, accumulator=accumulator, weight_dtype=weight_dtype)


def image_kind(isa: Warp, saved: Callable[[], int]) -> Kind:  # noqa: ARG001 - as on other architectures
    """Format of an 8-bit image of few channels: a word a pixel."""
    return "u8"


def tile(
    isa: Warp, kind: Family, shape: ConvShape, rule: SumRule, pool: tuple[int, int], blocks: int | None = None
) -> WarpTile | TensorTile:
    """The tile of a warp: as many pixels as its accumulators have room for.

    Args:
        isa: of the machine.
        kind: kernel family.
        shape: loop nest.
        rule: how sums combine.
        pool: fused pooling window.
        blocks: 32 channels each, where they are given by packed weights.
    """
    if isinstance(kind, B1Wgmma):
        return warpgroup_tile(shape, rule, blocks)
    if isinstance(kind, TensorWords):
        return tensor_tile(shape, rule, blocks)
    count = 1 if blocks is None else blocks
    pairs = shape.weight_planes * rule.act_planes * pool[0] * pool[1]
    rows = shape.tile_rows * shape.tile_columns
    pixels = max(1, min(PIXELS, rows, isa.accumulators // (pairs * count)))
    return WarpTile(pixels=pixels, blocks=count)


def space(
    isa: Warp, kind: Family, shape: ConvShape, rule: SumRule, pool: tuple[int, int], counts: Sequence[int]
) -> Space:
    """What a tuner may choose.

    Args:
        isa: of the machine.
        kind: kernel family.
        shape: loop nest.
        rule: how sums combine.
        pool: fused pooling window.
        counts: blocks of 32 channels that a tile may have, the best first.
    """
    best = tile(isa, kind, shape, rule, pool, blocks=counts[0])
    if isinstance(best, TensorTile) and isinstance(kind, B1Wgmma):
        return warpgroup_space(best, shape, rule)
    if isinstance(best, TensorTile):
        return tensor_space(best, shape, rule, counts)
    held = shape.weight_planes * rule.act_planes * pool[0] * pool[1]
    return warp_space(best, shape, isa.accumulators / held, counts)
