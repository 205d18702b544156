"""Look-ups of two planes of codes at once, or of two pixels: one VPSHUFB does the work of two of `Lookup`'s.

A table has a row for each byte that four codes of two planes make (four bits of the one, four of the other), and an
entry for each nibble of four weights of a plane. Entries are bytes that hold more than one count, or a weighted sum:

- `LookupCounts`, whatever the bases: the count of one plane in the low nibble, that of the other in the high one. The
  bytes of three look-ups are added before their nibbles are parted.
- `LookupPixels`, for codes of one plane: the same, of two neighbouring pixels of a row.
- `LookupLevels`, for codes of integer bases n_j: ``sum_j n_j * count_j``, so that the activation planes are combined
  before anything is added up. As many bytes are added as stay below 256, then parted into sums of 16 bits.

Parting takes no unpacking: one accumulator adds up everything, modulo its width, the other the upper parts alone; what
the first holds less the upper parts is the sum of the lower ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log2
from typing import Any

import numpy as np
import numpy.typing as npt

from .problem import ConvShape, SumRule, Tile, workspace_size
from .space import NEAR_BYTES, Space, distinct, orders
from .words import Words
from .x86_families import X86
from .x86_lut_nest import PASS_OUTPUTS, LookupTile, PairLookupBuilder
from .x86_lut_pass import ALWAYS_FIT, LARGEST_BYTE, ROWS, STEP_CHANNELS, WORD_STEPS, runs
from .x86_lut_vectors import ROW_BYTES, byte_lanes

LARGEST_TOTAL = (1 << 16) - 1
"""Totals are 16 bits wide: no more inputs than that."""

FEWEST_SUMMED = 2
"""Look-ups of `LookupLevels` that must fit into a byte together: `LookupCounts` is faster than with one."""

MOST_SUMMED = 8
"""Look-ups of `LookupLevels` that are unrolled."""

PIECE_BYTES = 20 << 10
"""Weights that leave room for a table, rows of pixels and sums in a first-level cache of 32 kB."""

UNROLLED = (2, 1, 4)
"""Groups of look-ups that one turn of the loop may take, the default first."""

MOST_ROWS = 8
"""Whose tiles may take a piece of the weights together."""

ROW_SUMS = 128
"""Sums of a row, for one channel, that may wait for the next piece of the weights."""

ROW_OFFSET_BYTES = 4
"""Of where a look-up finds its row of the table: what a tile reads in place of codes."""

MOST_CUTS = 24
"""Of a run of look-ups."""


@dataclass(frozen=True, kw_only=True)
class PairLookup(Words, ABC):
    """What both kinds have in common.

    Args:
        planes: of the codes.
        integers: n_j of the planes; empty for `LookupCounts`.
        group: look-ups whose bytes are added before they are parted.
        window: look-ups of a run whose counts a byte holds, as the weights prove; 0 without a proof.
    """

    builder = PairLookupBuilder
    isa: X86
    planes: int
    group: int
    window: int = 0
    integers: tuple[int, ...] = ()
    weight_dtype: str = "uint8"
    vectors: int = 2
    word_elements: int = 1
    latency: float = 2.0
    total: str = "uint16"

    @property
    def channels(self) -> int:
        """One output channel for each byte."""
        return byte_lanes(self.isa)

    @property
    def combines_codes(self) -> bool:
        """Whether planes of activations are combined in the table."""
        return bool(self.integers)

    @property
    def pairs_pixels(self) -> bool:
        """Whether a look-up serves two pixels rather than two planes."""
        return False

    @property
    def plane_pairs(self) -> int:
        """Pairs of planes, the last of which may have one."""
        return -(-self.planes // 2)

    def proven(self, words: npt.NDArray[Any], shape: ConvShape) -> Words:
        """Counts: with the longest windows in which no output channel has more ones than a byte can hold."""
        if self.combines_codes:
            return self
        ordered = np.bitwise_count(_ordered(words))
        _, steps = runs(shape, self.plane_pairs)
        ones = ordered.reshape(-1, steps)
        fitting = (
            size
            for size in range(steps, ALWAYS_FIT, -1)
            if steps % size == 0 and ones.reshape(-1, size).sum(axis=1, dtype=np.int64).max() <= LARGEST_BYTE
        )
        return replace(self, window=next(fitting, 0))

    def unflushed(self, count: int) -> int:
        """How many of `count` look-ups, a part of a run, can be added up in bytes; a divisor."""
        return max(
            size
            for size in range(1, count + 1)
            if count % size == 0 and (size <= ALWAYS_FIT or (self.window and self.window % size == 0))
        )

    def workspace(self, shape: ConvShape, rule: SumRule) -> int:
        """int32 elements: counts, then the offset of a row for each look-up of each pixel."""
        pixels = shape.source.padded_height * shape.source.padded_width
        return workspace_size(shape, rule) + pixels * self.pixel_steps(shape)

    def pixel_steps(self, shape: ConvShape) -> int:
        """Look-ups of a pixel."""
        return self.plane_pairs * WORD_STEPS * shape.words

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Nibbles in the order of the look-ups, low ones of a tap before high ones; lanes as they are parted."""
        packed, table = Words.operands(self, _ordered(words), shape, tile)
        # Even lanes have the lower half of the channels, so that bytes parted into words are in order.
        lanes = np.arange(self.channels).reshape(2, -1).T.ravel()
        return np.ascontiguousarray(packed.reshape(-1, self.channels)[:, lanes]).ravel(), table

    @abstractmethod
    def table(self) -> npt.NDArray[np.uint8]:
        """uint8[tables, 256, 16], flat."""


def _ordered(words: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Nibbles [O, P, kh, kw, look-ups, 1] of [O, P, kh, kw, words, 2]: low ones of a tap before high ones."""
    return np.moveaxis(words, 5, 4).reshape(*words.shape[:4], -1, 1)


def _counts() -> npt.NDArray[np.int64]:
    """int64[256, 16, 2]: ones that the nibbles of a byte (low, high) have in common with a nibble."""
    byte = np.arange(ROWS, dtype=np.uint8)[:, None]
    nibble = np.arange(ROW_BYTES, dtype=np.uint8)[None]
    return np.stack([np.bitwise_count(part & nibble) for part in (byte & 15, byte >> 4)], axis=-1).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class LookupCounts(PairLookup):
    """Counts of two planes in the nibbles of a byte: for all bases."""

    accumulator: str = "uint8"
    group: int = 3
    cycles: float = 0.95
    table_size: int = ROWS * ROW_BYTES

    def table(self) -> npt.NDArray[np.uint8]:
        """uint8[256, 16], flat."""
        counts = _counts()
        return (counts[..., 0] + 16 * counts[..., 1]).astype(np.uint8).ravel()


@dataclass(frozen=True, kw_only=True)
class LookupPixels(LookupCounts):
    """Counts of two neighbouring pixels in the nibbles of a byte: for codes of one plane."""

    @property
    def pairs_pixels(self) -> bool:
        """It does."""
        return True


@dataclass(frozen=True, kw_only=True)
class LookupLevels(PairLookup):
    """Sums of integer levels: one table for each pair of planes."""

    accumulator: str = "uint16"
    cycles: float = 1.6

    def table(self) -> npt.NDArray[np.uint8]:
        """uint8[pairs, 256, 16], flat."""
        counts = _counts()
        pairs = np.zeros((self.plane_pairs, 2), np.int64)
        pairs.ravel()[: self.planes] = self.integers
        return np.stack([counts @ pair for pair in pairs]).astype(np.uint8).ravel()


def levels_group(integers: tuple[int, ...], ones: int) -> int:
    """Look-ups of levels whose bytes can be added; 0 where sums of levels do not fit, or one alone fills a byte.

    Args:
        integers: n_j of the planes of codes.
        ones: the most ones that a plane of an output channel's weights has: bounds the sums.
    """
    total = sum(integers)
    if min(integers) < 0 or total * ones > LARGEST_TOTAL:
        return 0
    group = min(LARGEST_BYTE // (STEP_CHANNELS * max(total, 1)), MOST_SUMMED)
    return group if group >= FEWEST_SUMMED else 0


def pair_lookup(isa: X86, planes: int, integers: tuple[int, ...], ones: int) -> PairLookup:
    """The look-ups for codes of `planes` planes.

    Args:
        isa: instruction set.
        planes: of the codes.
        integers: n_j of the planes where all bases are integers; empty otherwise.
        ones: the most ones that a plane of an output channel's weights has.
    """
    if planes == 1:
        return LookupPixels(isa=isa, planes=1)
    group = levels_group(integers, ones) if integers else 0
    if group == 0:
        return LookupCounts(isa=isa, planes=planes)
    size = -(-planes // 2) * ROWS * ROW_BYTES
    return LookupLevels(isa=isa, planes=planes, integers=integers, group=group, table_size=size)


def pair_tile(family: PairLookup, shape: ConvShape, vectors: int, blocks: int | None) -> LookupTile:
    """The tile of a kernel of pair look-ups.

    A tile takes as many vectors of channels as a pass has outputs: they share the rows of a pixel, which cost more than
    weights. Weights beyond the first-level cache are cut into pieces.

    Args:
        family: the look-ups.
        shape: loop nest.
        vectors: of output channels.
        blocks: vectors of a tile where they are given.
    """
    outputs = max(1, PASS_OUTPUTS // shape.weight_planes)
    count = blocks or max(n for n in (4, 2, 1) if n <= outputs and vectors % n == 0)
    together = max(1, outputs // count)
    if family.pairs_pixels:
        # Two pairs of pixels by two vectors spill.
        together = 2 if count > 1 else 2 * together
    slab = shape.kernel[0] * shape.kernel[1] * shape.words * WORD_STEPS * family.channels * shape.weight_planes * count
    offered = piece_counts(shape, family.plane_pairs)
    pieces = next((number for number in offered if slab <= number * PIECE_BYTES), offered[-1])
    if pieces > 1 and not family.combines_codes:
        # Counts are flushed anyway: pieces as short as that flush no more often.
        columns, steps = runs(shape, family.plane_pairs)
        windows = shape.kernel[0] * columns * (steps // family.unflushed(steps))
        pieces = max(pieces, *(number for number in offered if number <= windows))
    return LookupTile(pixels=min(shape.tile_columns, together), blocks=count, unroll=UNROLLED[0], pieces=pieces)


def pair_space(family: PairLookup, shape: ConvShape, vectors: int, counts: Sequence[int]) -> Space:
    """What a tuner may choose for a kernel of pair look-ups.

    Args:
        family: the look-ups.
        shape: loop nest.
        vectors: of output channels.
        counts: vectors that a tile may have, the best first.
    """
    tiles = [pair_tile(family, shape, vectors, counts[0])]
    most = 2 * max(1, PASS_OUTPUTS // shape.weight_planes)
    for count in counts:
        for groups in (1, 2, 4):
            pixels = groups * (2 if family.pairs_pixels else 1)
            if groups * count <= most and pixels <= shape.tile_columns:
                tiles.append(replace(tiles[0], pixels=pixels, blocks=count))
    pieces = piece_counts(shape, family.plane_pairs)
    chosen = tiles[0].pieces
    ordered = tuple(sorted(pieces, key=lambda number: abs(log2(number / chosen))))
    rows = tuple(count for count in range(1, MOST_ROWS + 1) if len(pieces) > 1 and shape.tile_rows % count == 0)
    knobs = {"pieces": ordered, "rows": rows or (1,), "unroll": UNROLLED}
    places = ROW_OFFSET_BYTES * family.pixel_steps(shape) * shape.source.padded_height * shape.source.padded_width
    return Space(tiles=distinct(tiles), knobs=knobs | orders(shape, tiles[0], vectors, places, NEAR_BYTES))


def piece_counts(shape: ConvShape, pairs: int) -> tuple[int, ...]:
    """Pieces that the sum over taps can be cut into; one where the sums of a row would fill the first-level cache.

    Args:
        shape: loop nest.
        pairs: of planes of codes.
    """
    rows = shape.kernel[0]
    columns, steps = runs(shape, pairs)
    if shape.out_width * shape.pool[0] * shape.weight_planes > ROW_SUMS:
        return (1,)
    cuts = [count for count in range(1, MOST_CUTS + 1) if steps % count == 0 and steps // count >= MOST_SUMMED]
    return tuple(sorted({1, rows, *(rows * columns * count for count in cuts)}))
