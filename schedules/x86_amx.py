"""AMX (``dot8`` on tile registers): a direct convolution without im2col.

A tile register holds 16 rows of 64 bytes. TDPBUSD multiplies 16 output positions of up to 64 input bytes with the same
bytes of 16 output channels, and adds to 16 x 16 sums: 1024 multiply-accumulates per cycle (Intel 64 and IA-32
Architectures Optimization Reference Manual, chapter on AMX). In NHWC the bytes of one kernel row lie in one piece, so a
tile of activations is loaded where it lies: rows are output positions, one stride apart.

Tile registers belong to a thread and need its configuration (LDTILECFG); Linux lets a process use them only after it
has asked (`lqcompile.cpu`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from .problem import ConvShape, SumRule, Tile
from .words import Words
from .x86_amx_expand import PackedTiles
from .x86_amx_nest import A, B, TileContraction, plane_bytes, tile_group
from .x86_amx_tile import ACCUMULATORS, CHANNELS, TILE_BYTES, Segments, TileGroup, planes_fit, planes_pay


def tile_configuration(rows: int, depth: int) -> npt.NDArray[np.uint8]:
    """The 64 bytes of LDTILECFG for `rows` output positions and `depth` input bytes: uint8[64]."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    columns, heights = config[16:32].view(np.uint16), config[48:56]
    columns[:], heights[:] = TILE_BYTES, rows
    columns[A:B] = depth
    heights[B:] = depth // 4
    return config


@dataclass(frozen=True, kw_only=True)
class DotTiles(Words):
    """TDPBUSD: 16 positions by 16 channels by 64 bytes; on bytes, or on `planes` of bits that become bytes first.

    Args:
        planes: whether activations are bits.
        codes: planes of the activations that are multiplied on their own.
        integers: of low-bit weights that are read as bit planes, [O][planes]; empty where they are bytes.
    """

    builder = TileContraction
    accumulator: str = "int32"
    weight_dtype: str = "int8"
    cycles: float = 0.0625
    table_size: int = 64
    planes: bool = False
    codes: int = 1
    integers: tuple[tuple[int, ...], ...] = ()

    @property
    def weight_planes(self) -> int:
        """Planes that bytes of weights are made of, 0 where they are read."""
        return len(self.integers[0]) if self.integers else 0

    def packed(self, shape: ConvShape, group: TileGroup) -> PackedTiles | None:
        """Where the bit planes of weights lie; None for bytes."""
        if not self.integers:
            return None
        return PackedTiles(
            planes=self.weight_planes,
            factors=shape.weight_planes,
            vectors=shape.blocks,
            blocks=group.blocks,
            segments=Segments.of(shape),
        )

    def for_codes(self, planes: int, integers: tuple[int, ...], ones: int) -> DotTiles:  # noqa: ARG002
        """The family for codes of `planes` planes."""
        return replace(self, codes=planes)

    def for_weights(self, integers: npt.NDArray[np.int64]) -> DotTiles:
        """The family for weights that are their channels' `integers` (int64[O, planes]), each added or subtracted."""
        return replace(self, integers=tuple(tuple(int(m) for m in row) for row in integers), weight_dtype="uint64")

    def proven(self, words: npt.NDArray[Any], shape: ConvShape) -> DotTiles:  # noqa: ARG002
        """The family with weights as bytes, unless reading bit planes is estimated to be faster."""
        if (
            self.integers
            and planes_fit(shape)
            and planes_pay(shape, SumRule(act_planes=self.codes), self.weight_planes)
        ):
            return self
        return replace(self, integers=(), weight_dtype="int8")

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Weights in the order of `TileContraction`, and the tile configuration.

        Args:
            words: int32[O, P, kh, kw, W, 1], four input channels to a word.
            shape: loop nest.
            tile: a `TileGroup`.

        Returns:
            int8[groups of channels, steps, P, blocks, depth / 4, 16 channels, 4], flat, or what `PackedTiles` makes of
            them, and uint8[64].
        """
        group = tile_group(tile)
        packed, tiles = self.packed(shape, group), _weight_tiles(words, shape, group)
        weights = packed.pack(tiles, np.array(self.integers)) if packed else tiles.ravel()
        return weights, tile_configuration(group.rows, Segments.of(shape).depth)

    def most_blocks(self, shape: ConvShape) -> int:
        """A tile of channels for each tile register of sums, below each other those of a pooling window."""
        return ACCUMULATORS // shape.pool[0]

    def workspace(self, shape: ConvShape, rule: SumRule) -> int:
        """int32 elements: the bits of all planes as bytes, [plane][pixel][channel]."""
        return rule.act_planes * plane_bytes(shape) // 4 if self.planes else 0


def _weight_tiles(words: npt.NDArray[Any], shape: ConvShape, group: TileGroup) -> npt.NDArray[np.int8]:
    """Bytes of `words`: int8[groups of channels, steps, P, blocks, depth / 4, 16 channels, 4]."""
    segments = Segments.of(shape)
    outputs, planes, rows, columns, *_ = words.shape
    data = np.ascontiguousarray(words).view(np.int8).reshape(outputs, planes, rows, columns, -1)
    missing = shape.source.padded_channels - data.shape[-1]
    data = np.pad(data, [(0, shape.blocks * CHANNELS - outputs), *[(0, 0)] * 3, (0, missing)])
    data = data.reshape(len(data), planes, segments.count, segments.bytes)
    parts = []
    for index, start in enumerate(segments.starts):
        part = data[..., start : start + segments.depth].copy()
        part[..., : index * TILE_BYTES - start] = 0  # what the part before it has already
        parts.append(part)
    steps = np.stack(parts, axis=2).reshape(-1, group.blocks, CHANNELS, planes, segments.steps, segments.depth)
    split = steps.reshape(*steps.shape[:-1], -1, 4)
    return np.ascontiguousarray(split.transpose(0, 4, 3, 1, 5, 2, 6))
