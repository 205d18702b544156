"""AMX (``dot8`` on tile registers): a direct convolution without im2col.

A tile register holds 16 rows of 64 bytes. TDPBUSD multiplies 16 output positions of up to 64 input bytes with the same
bytes of 16 output channels, and adds to 16 x 16 sums: 1024 multiply-accumulates per cycle (Intel 64 and IA-32
Architectures Optimization Reference Manual, chapter on AMX). In NHWC the bytes of one kernel row lie in one piece, so a
tile of activations is loaded where it lies: rows are output positions, one stride apart.

Tile registers belong to a thread and need its configuration (LDTILECFG); Linux lets a process use them only after it
has asked (`lqcompile.cpu`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .problem import ConvShape, SumRule, Tile
from .words import Words
from .x86_amx_nest import A, B, TileContraction, plane_bytes, tile_group
from .x86_amx_tile import ACCUMULATORS, CHANNELS, TILE_BYTES, Segments


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
    """TDPBUSD: 16 positions by 16 channels by 64 bytes; on bytes, or on `planes` of bits that become bytes first."""

    builder = TileContraction
    accumulator: str = "int32"
    weight_dtype: str = "int8"
    cycles: float = 0.0625
    table_size: int = 64
    planes: bool = False

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Weights in the order of `TileContraction`, and the tile configuration.

        Args:
            words: int32[O, P, kh, kw, W, 1], four input channels to a word.
            shape: loop nest.
            tile: a `TileGroup`.

        Returns:
            int8[groups of channels, steps, P, blocks, depth / 4, 16 channels, 4], flat, and uint8[64].
        """
        group = tile_group(tile)
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
        steps = np.stack(parts, axis=3).reshape(-1, group.blocks, CHANNELS, planes, segments.steps, segments.depth)
        split = steps.reshape(*steps.shape[:-1], -1, 4)
        packed = np.ascontiguousarray(split.transpose(0, 4, 3, 1, 5, 2, 6)).ravel()
        return packed, tile_configuration(group.rows, segments.depth)

    def most_blocks(self, shape: ConvShape) -> int:
        """A tile of channels for each tile register of sums, below each other those of a pooling window."""
        return ACCUMULATORS // shape.pool[0]

    def workspace(self, shape: ConvShape, rule: SumRule) -> int:
        """int32 elements: the bits of all planes as bytes, [plane][pixel][channel]."""
        return rule.act_planes * plane_bytes(shape) // 4 if self.planes else 0
