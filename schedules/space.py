"""What a tuner may choose for a contraction: the register tiles of a kernel family, and the fields of a tile beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from math import prod

import numpy as np

from .problem import CHANNELS_OUTERMOST, ROWS_OUTERMOST, ConvShape, Tile

KERNELS = 3
"""Version of the kernels: raise it with a change after which other tiles may be the fastest. Records of another version
are refused."""

MORE_REGISTERS = 1.25
"""Tiles of so many times the accumulators that a schedule's model allows are offered: LLVM may still fit them."""

NEAR_BYTES = 256 << 10
"""Second-level cache of many x86 processors: an input beyond it comes from further away for each tile of channels."""

FEWER_REGISTERS = 0.25
"""Tiles of fewer accumulators than this part of them are left out: they read the same operands for less work."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """The design space of one kernel family for one contraction; every combination gives the same integers.

    Args:
        tiles: register tiles, the one that the schedule's model picks first.
        knobs: name of another field of the tiles to the values that it may take, the default first. They are
            independent of one another and of the tile; values that do nothing for a shape are left out.
    """

    tiles: tuple[Tile, ...]
    knobs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Number of combinations."""
        return len(self.tiles) * prod(len(values) for values in self.knobs.values())

    def choose(self, tile: int, values: Mapping[str, int]) -> Tile:
        """The tile number `tile` with its knobs set."""
        return replace(self.tiles[tile], **values)

    def neighbours(self) -> list[Tile]:
        """The points that differ from the first one in one decision: knobs and tiles in turn, each in its order."""
        first = {name: values[0] for name, values in self.knobs.items()}
        lines = [[self.choose(0, first | {name: value}) for value in values[1:]] for name, values in self.knobs.items()]
        lines.append([self.choose(index, first) for index in range(1, len(self.tiles))])
        return [point for turn in zip_longest(*lines) for point in turn if point is not None]

    def place(self, tile: Tile) -> tuple[int, dict[str, int]] | None:
        """Number of the tile and values of the knobs that `choose` makes `tile` of; None if it is not offered."""
        fields = asdict(tile)
        values = {name: fields[name] for name in self.knobs if name in fields}
        offered = len(values) == len(self.knobs) and all(values[name] in self.knobs[name] for name in values)
        for index in range(len(self.tiles)):
            if offered and self.choose(index, values) == tile:
                return index, values
        return None


def register_tiles(best: Tile, counts: Sequence[int], columns: int, accumulators: float) -> tuple[Tile, ...]:
    """The tiles that keep a sensible number of accumulators, `best` first.

    Args:
        best: what the schedule's model picks.
        counts: vectors of channels that a tile may have.
        columns: outputs of a row, after pooling.
        accumulators: of one pixel and vector each, that fit the registers.
    """
    found = [best]
    for count in counts:
        most = max(1, int(accumulators * MORE_REGISTERS) // count)
        least = min(columns, int(accumulators * FEWER_REGISTERS) // count)
        found += [replace(best, pixels=pixels, blocks=count) for pixels in range(max(1, least), min(columns, most) + 1)]
    return distinct(found)


def orders(
    shape: ConvShape, best: Tile, vectors: int, source_bytes: int, cache_bytes: int
) -> dict[str, tuple[int, ...]]:
    """The knob `order` of a nest with rows of tiles, as `Space` takes it.

    There is none where all channels are one tile, or all rows one, nor where the input stays in the cache for the next
    tile of channels.

    Args:
        shape: loop nest.
        best: what the schedule's model picks.
        vectors: of output channels.
        source_bytes: that each tile of channels reads.
        cache_bytes: that are meant to hold them.
    """
    if vectors <= best.blocks or shape.tile_rows == 1 or source_bytes <= cache_bytes:
        return {}
    return {"order": (CHANNELS_OUTERMOST, ROWS_OUTERMOST)}


def input_bytes(shape: ConvShape) -> int:
    """Bytes of the input of a nest, borders included."""
    return shape.source.size * np.dtype(shape.source.dtype).itemsize


def distinct(tiles: Iterable[Tile]) -> tuple[Tile, ...]:
    """The tiles without repetitions, in order."""
    return tuple(dict.fromkeys(tiles))
