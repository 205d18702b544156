"""How AMX walks a contraction: bytes of a kernel row in tiles, groups of tiles, and what a group costs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from .formats import round_up
from .problem import ConvShape, SumRule, Tile

TILE_ROWS, TILE_BYTES = 16, 64
"""Size of a tile register."""

CHANNELS = 16
"""Output channels of a tile: its columns of 32 bits."""

ACCUMULATORS = 4
"""Tile registers that hold sums; four of the eight are left for operands."""

STACK_BYTES = 16 << 10
"""Most bytes of sums on their way to the epilogue."""

LATENCY_CYCLES = 52
"""From one product to the next that adds to the same sums (the same manual): what fewer than four do not fill."""

GROUP_CYCLES = 32
"""What a group takes besides: its addresses, zeros, and a loop that ends. An estimate."""

EPILOGUE_CYCLES = 8
"""Of one vector of channels, on two vector ports."""

L1_BYTES, L2_BYTES = 24 << 10, 1 << 20
"""Weights that stay there between two uses (half of what a core of Sapphire Rapids has)."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Input bytes of one output position, in the pieces that lie together, each cut into parts of at most 64 bytes.

    The last part of a segment ends where the segment ends: it overlaps the one before it, with zero weights there.

    Args:
        count: segments: kernel rows, or single taps where columns are dilated.
        per_row: segments of one kernel row.
        bytes: of a segment.
    """

    count: int
    per_row: int
    bytes: int

    @classmethod
    def of(cls, shape: ConvShape) -> Segments:
        """Those of a contraction."""
        rows, columns = shape.kernel
        per_row = 1 if shape.dilations[1] == 1 else columns
        return cls(count=rows * per_row, per_row=per_row, bytes=columns // per_row * shape.source.padded_channels)

    @property
    def depth(self) -> int:
        """Bytes of a part."""
        return min(TILE_BYTES, self.bytes)

    @property
    def parts(self) -> int:
        """Of one segment."""
        return -(-self.bytes // TILE_BYTES)

    @property
    def starts(self) -> list[int]:
        """First byte of each part."""
        return [min(part * TILE_BYTES, self.bytes - self.depth) for part in range(self.parts)]

    @property
    def steps(self) -> int:
        """Parts of all segments."""
        return self.count * self.parts


@dataclass(frozen=True, kw_only=True)
class TileGroup(Tile):
    """A group of tile registers: ``down x across`` tiles of `rows` output positions by `blocks` tiles of channels.

    Args:
        rows: positions of a tile, at most 16.
        down: tiles below each other, in rows of conv outputs.
        across: tiles beside each other.
        flat: positions run on over the ends of rows, through the halo (stride 1): full tiles whatever the width.
    """

    rows: int
    down: int
    across: int
    flat: bool

    def extent(self, shape: ConvShape) -> tuple[int, int]:
        """Rows and columns (after pooling) that groups cover."""
        if self.flat:
            return 1, (shape.out_height - 1) * shape.source.padded_width + shape.out_width
        return shape.tile_rows, shape.tile_columns

    def stride(self, shape: ConvShape) -> tuple[int, int]:
        """Rows and columns (after pooling) of one group."""
        return self.down // shape.pool[0], self.across * self.rows // shape.pool[1]

    def steps(self, shape: ConvShape) -> tuple[int, int]:
        """Groups (across, down) that cover the output."""
        (height, width), (rows, columns) = self.extent(shape), self.stride(shape)
        return -(-width // columns), -(-height // rows)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """Tiles of activations and of weights that are multiplied with each other in one run over the input bytes."""

    tiles: tuple[int, ...]
    columns: tuple[int, ...]


def blocks_of(tiles: int, columns: int) -> list[Pass]:
    """Cuts `tiles` x `columns` products into passes of at most four: 2 x 2 where there are two of each."""
    high = ACCUMULATORS if columns == 1 else 2
    wide = ACCUMULATORS if tiles == 1 else 2
    return [
        Pass(tiles=tuple(range(m, min(m + high, tiles))), columns=tuple(range(n, min(n + wide, columns))))
        for m in range(0, tiles, high)
        for n in range(0, columns, wide)
    ]


def group_cycles(shape: ConvShape, rule: SumRule, tile: TileGroup) -> float:
    """Estimated cycles of one group: products, loads or latency, whichever is slowest, or the epilogue beside them."""
    segments = Segments.of(shape)
    slab = segments.steps * shape.weight_planes * tile.blocks * segments.depth * CHANNELS
    whole = slab * (shape.blocks // tile.blocks)
    columns, rows = tile.steps(shape)
    load_bytes = 128.0 if slab <= L1_BYTES else 48.0
    cycles = 0.0
    for block in blocks_of(tile.down * tile.across * rule.act_planes, tile.blocks * shape.weight_planes):
        weights = len(block.columns) * segments.depth * CHANNELS
        first = weights / 10.0 if whole > L2_BYTES else weights / load_bytes
        again = weights / load_bytes
        stream = (first + again * (columns * rows - 1)) / (columns * rows)
        loads = len(block.tiles) * tile.rows / 2 + stream
        # A product with fewer rows takes fewer cycles, but not by as much: no manual says by how much.
        products = len(block.tiles) * len(block.columns) * (tile.rows + TILE_ROWS) / 2
        # Loads and products overlap, but not wholly.
        busy = max(products, loads) + min(products, loads) / 8
        cycles += segments.steps * max(busy, LATENCY_CYCLES)
    vectors = tile.down * tile.across * tile.rows * tile.blocks
    return max(cycles, float(vectors * EPILOGUE_CYCLES)) + GROUP_CYCLES


def tile_groups(shape: ConvShape, rule: SumRule, blocks: int | None = None) -> list[TileGroup]:
    """Groups that fit the shape and the registers; `blocks` where packed weights give it."""
    counts = [count for count in (1, 2, 4) if shape.blocks % count == 0] if blocks is None else [blocks]
    pairs = shape.weight_planes * rule.act_planes
    pool_rows, pool_columns = shape.pool
    most = TILE_ROWS // pool_columns * pool_columns
    found = []
    for count, down, across in itertools.product(counts, range(1, 5), range(1, 5)):
        products = count * down * across
        fits = products * pairs * TILE_ROWS * TILE_BYTES <= STACK_BYTES or products == pool_rows * (blocks or 1)
        if products > ACCUMULATORS or not fits or down % pool_rows:
            continue
        for flat in (False, True):
            if flat and (down > 1 or shape.strides != (1, 1) or shape.pool != (1, 1)):
                continue
            width = (shape.out_height - 1) * shape.source.padded_width + shape.out_width if flat else shape.out_width
            width -= width % pool_columns
            tiles = round_up(-(-width // most), across)
            rows = round_up(-(-width // tiles), pool_columns)  # tiles of equal width
            # A group that was measured is used where other layers ask for another halo: it must fit without any.
            least = shape.out_height * shape.out_width if flat else width
            if rows * across <= least and down <= (1 if flat else shape.out_height):
                pixels = rows * down * across // (pool_rows * pool_columns)
                found.append(TileGroup(pixels=pixels, blocks=count, rows=rows, down=down, across=across, flat=flat))
    return found


def best_group(shape: ConvShape, rule: SumRule, blocks: int | None = None) -> TileGroup:
    """The group with the least estimated cycles for the whole contraction.

    Raises:
        ValueError: none has `blocks` tiles of channels.
    """
    groups = tile_groups(shape, rule, blocks)
    if not groups:
        raise ValueError(f"no group of tiles has {blocks} tiles of channels")

    def cycles(group: TileGroup) -> float:
        columns, rows = group.steps(shape)
        return columns * rows * (shape.blocks // group.blocks) * group_cycles(shape, rule, group)

    return min(groups, key=cycles)
