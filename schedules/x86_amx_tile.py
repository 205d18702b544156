"""How AMX walks a contraction: bytes of a kernel row in tiles, groups of tiles, and what a group costs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from .formats import round_up
from .problem import ConvShape, SumRule, Tile

TILE_ROWS, TILE_BYTES = 16, 64
"""Size of a tile register."""

CHANNELS = 16
"""Output channels of a tile: its columns of 32 bits."""

LINE_BYTES = CHANNELS * 4
"""Four input bytes of all channels of a tile of weights: a row of its register, and a line of the cache."""

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

EXPAND_CYCLES = 1.25
"""Of a line of weights for each of their bit planes, on the same ports: two instructions, for which llvm-mca takes 1.1
to 1.3 cycles (docs/x86.md)."""

L1_BYTES, L2_BYTES = 24 << 10, 1 << 20
"""Weights that stay there between two uses (half of what a core of Sapphire Rapids has)."""

L1_RATE, L2_RATE, L3_RATE = 128.0, 48.0, 10.0
"""Bytes of weights that a cycle takes from each cache: assumptions."""

ALIKE = 16
"""Layers that a network is taken to have of the size of any one: where their weights together leave the second-level
cache, each layer finds its own in the third at every inference."""

SLAB_BYTES = 1 << 20
"""Most bytes of weights on the stack of a task: threads have 2 MB of it at least."""

FEWEST_STEPS = 4
"""Steps of a group from which on weights may be bit planes: the bytes of a tile are used two steps after they are made,
and the next ones take their place after two more."""


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Input bytes of one output position, in the pieces that lie together, each cut into parts of at most 64 bytes.

    The last part of a segment ends where the segment ends: it overlaps the one before it, with zero weights there.
    Steps take the same part of all segments in turn: they read much the same input, one tap after the other.

    Args:
        count: segments: kernel rows, or single taps where columns are dilated or a tap has whole parts.
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
        together = shape.dilations[1] == 1 and shape.source.padded_channels % TILE_BYTES
        per_row = 1 if together else columns
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

    def place(self, step: Any) -> tuple[Any, Any, Any]:
        """Tap row, tap column (of the first tap) and part of a step (a number or an expression)."""
        return step % self.count // self.per_row, step % self.count % self.per_row, step // self.count

    @property
    def lines(self) -> int:
        """Of a tile of weights: four bytes of the depth each."""
        return self.depth // 4

    @property
    def repeated_lines(self) -> int:
        """Lines of the last part that the part before has already, with zero weights in the last."""
        return (self.parts * self.depth - self.bytes) // 4


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
        """Rows and columns (after pooling) of one group: its tiles may be more than one that has all columns needs."""
        columns = min(self.across * self.rows // shape.pool[1], self.extent(shape)[1])
        return self.down // shape.pool[0], columns

    def steps(self, shape: ConvShape) -> tuple[int, int]:
        """Groups (across, down) that cover the output."""
        (height, width), (rows, columns) = self.extent(shape), self.stride(shape)
        return -(-width // columns), -(-height // rows)

    def start(self, shape: ConvShape, tile: int) -> int:
        """First conv output column, from that of the group, of a tile beside others; the last tiles may overlap."""
        return min(tile * self.rows, self.stride(shape)[1] * shape.pool[1] - self.rows)


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


def group_cycles(shape: ConvShape, rule: SumRule, tile: TileGroup, planes: int = 0) -> float:
    """Estimated cycles of a group, on average: products, or what stands beside them where that takes longer.

    The first group on some channels reads their weights from where the last inference left them; with `planes` it makes
    bytes of bit planes on the way. The others find bytes in a nearer cache.

    Args:
        shape: loop nest.
        rule: how sums combine.
        tile: the group.
        planes: of weights that are read as bit planes; 0 for bytes.
    """
    segments = Segments.of(shape)
    slab = segments.steps * shape.weight_planes * tile.blocks * segments.lines * LINE_BYTES
    line = LINE_BYTES * planes / 8 if planes else float(LINE_BYTES)
    far = ALIKE * slab * (shape.blocks // tile.blocks) * line / LINE_BYTES > L2_BYTES
    rate = L1_RATE if slab <= L1_BYTES else L2_RATE
    vectors = tile.down * tile.across * tile.rows * tile.blocks
    columns = tile.blocks * shape.weight_planes
    first, again, expanding = 0.0, 0.0, 0.0
    for order, block in enumerate(blocks_of(tile.down * tile.across * rule.act_planes, columns)):
        # A product with fewer rows takes fewer cycles, but not by as much: no manual says by how much.
        products = len(block.tiles) * len(block.columns) * (tile.rows + TILE_ROWS) / 2
        loads = len(block.tiles) * tile.rows / 2
        read = len(block.columns) * segments.lines
        near = beside = loads + read * LINE_BYTES / rate
        if planes and not order:
            # Masks are loads beside those of tiles; what makes bytes shares its ports with the epilogue.
            lines = columns * segments.lines
            making = lines * planes * EXPAND_CYCLES
            expanding = segments.steps * making
            slowest = max(loads + (read + lines * planes) / 2, making + vectors * EPILOGUE_CYCLES / segments.steps)
            beside = max(slowest, lines * line / L3_RATE) if far else slowest
        elif far and not planes and not block.tiles[0]:
            beside = loads + read * line / L3_RATE
        first += segments.steps * _step_cycles(products, beside)
        again += segments.steps * _step_cycles(products, near)
    epilogue = float(vectors * EPILOGUE_CYCLES)
    across, down = tile.steps(shape)
    groups = across * down
    return (max(first, epilogue + expanding) + (groups - 1) * max(again, epilogue)) / groups + GROUP_CYCLES


def _step_cycles(products: float, beside: float) -> float:
    """Cycles of a step: what runs beside the products overlaps with them, but not wholly."""
    return max(max(products, beside) + min(products, beside) / 8, LATENCY_CYCLES)


def contraction_cycles(shape: ConvShape, rule: SumRule, tile: TileGroup, planes: int = 0) -> float:
    """Estimated cycles of all groups; the arguments are those of `group_cycles`."""
    columns, rows = tile.steps(shape)
    return columns * rows * (shape.blocks // tile.blocks) * group_cycles(shape, rule, tile, planes)


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
            if rows <= least and down <= (1 if flat else shape.out_height):
                pixels = rows * down * across // (pool_rows * pool_columns)
                found.append(TileGroup(pixels=pixels, blocks=count, rows=rows, down=down, across=across, flat=flat))
    return found


def best_group(shape: ConvShape, rule: SumRule, blocks: int | None = None, planes: int = 0) -> TileGroup:
    """The group with the least estimated cycles for the whole contraction.

    Raises:
        ValueError: none has `blocks` tiles of channels.
    """
    groups = tile_groups(shape, rule, blocks)
    if not groups:
        raise ValueError(f"no group of tiles has {blocks} tiles of channels")
    return min(groups, key=lambda group: contraction_cycles(shape, rule, group, planes))


def planes_fit(shape: ConvShape) -> bool:
    """Whether weights can be bit planes.

    There must be enough steps, not too many bytes to keep whatever the group of tiles, and no input channels that only
    fill up a vector: a plane has no zeros, but those channels hold anything.
    """
    segments = Segments.of(shape)
    largest = segments.steps * shape.weight_planes * ACCUMULATORS * segments.lines * LINE_BYTES
    full = shape.source.channels == shape.source.padded_channels
    return full and segments.steps >= FEWEST_STEPS and largest <= SLAB_BYTES


def planes_pay(shape: ConvShape, rule: SumRule, planes: int) -> bool:
    """Whether reading weights as bit planes is estimated to take fewer cycles than reading bytes."""
    bits, whole = (contraction_cycles(shape, rule, best_group(shape, rule, planes=n), n) for n in (planes, 0))
    return bits < whole
