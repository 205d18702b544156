"""Look-ups of two planes of codes at once, on AVX2: one VPSHUFB does the work of two of `Lookup`'s.

A table has a row for each byte that four codes of two planes make (four bits of the one, four of the other), and an
entry for each nibble of four weights of a plane. Entries are bytes that hold more than one count, or a weighted sum:

- `LookupCounts`, whatever the bases: the count of one plane in the low nibble, that of the other in the high one. The
  bytes of three look-ups are added before their nibbles are parted.
- `LookupLevels`, for codes of integer bases n_j: ``sum_j n_j * count_j``, so that the activation planes are combined
  before anything is added up. As many bytes are added as stay below 256, then parted into sums of 16 bits.

Parting takes no unpacking: one accumulator adds up everything, modulo its width, the other the upper parts alone; what
the first holds less the upper parts is the sum of the lower ones.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from .contraction import ContractionBuilder
from .epilogue import Epilogue
from .isa import Expr, registers, zero, zeros
from .problem import ConvShape, SumRule, Tile, workspace_size
from .words import Words

CHANNELS = 32
"""Output channels of a vector: its byte lanes."""

LARGEST_TOTAL = (1 << 16) - 1
"""Totals are 16 bits wide: no more inputs than that."""

ROWS, ROW_BYTES = 256, 16
"""Of a table: four codes of two planes, four weights of one."""

STEP_CHANNELS = 4
"""Input channels of a look-up."""

LARGEST_BYTE = 255

FEWEST_SUMMED = 2
"""Look-ups of `LookupLevels` that must fit into a byte together: `LookupCounts` is faster than with one."""

PASS_OUTPUTS = 4
"""Outputs (a pixel by 32 channels by a weight plane) of a pass: two accumulators and a sum of bytes for each."""

MOST_SUMMED = 8
"""Look-ups of `LookupLevels` that are unrolled."""

SHORT_ROW = 8
"""Outputs of a row up to which a tile is the whole row rather than one pass."""

WORD_STEPS = 2
"""Look-ups of a byte of eight channels."""


@dataclass(frozen=True, kw_only=True)
class PairLookup(Words, ABC):
    """What both kinds have in common.

    Args:
        planes: of the codes.
        integers: n_j of the planes; empty for `LookupCounts`.
        group: look-ups whose bytes are added before they are parted.
    """

    planes: int
    group: int
    integers: tuple[int, ...] = ()
    weight_dtype: str = "uint8"
    vectors: int = 2
    word_elements: int = 1
    latency: float = 2.0
    total: str = "uint16"

    @property
    def channels(self) -> int:
        """One output channel for each byte."""
        return CHANNELS

    @property
    def accumulators(self) -> int:
        """Sums that a pass keeps in registers, as the model of tiles counts them: for each plane pair that adds up."""
        return PASS_OUTPUTS * (1 if self.integers else self.planes)

    @property
    def combines_codes(self) -> bool:
        """Whether planes of activations are combined in the table."""
        return bool(self.integers)

    @property
    def plane_pairs(self) -> int:
        """Pairs of planes, the last of which may have one."""
        return -(-self.planes // 2)

    def contraction(
        self, shape: ConvShape, tile: Tile, rule: SumRule, epilogue: Epilogue, parallel: bool = True
    ) -> Any:
        """The PrimFunc; parameters as in the template, row offsets behind the counts in the workspace."""
        family: Any = self
        return PairLookupBuilder(self.isa, family, shape, tile, rule, epilogue, parallel).build()

    def workspace(self, shape: ConvShape, rule: SumRule) -> int:
        """int32 elements: counts, then the offset of a row for each look-up of each pixel."""
        pixels = shape.source.padded_height * shape.source.padded_width
        return workspace_size(shape, rule) + pixels * self.pixel_steps(shape)

    def pixel_steps(self, shape: ConvShape) -> int:
        """Look-ups of a pixel."""
        return self.plane_pairs * WORD_STEPS * shape.words

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Nibbles in the order of the look-ups, low ones of a tap before high ones; lanes as they are parted."""
        ordered = np.moveaxis(words, 5, 4).reshape(*words.shape[:4], -1, 1)
        packed, table = Words.operands(self, ordered, shape, tile)
        return np.ascontiguousarray(packed.reshape(-1, CHANNELS)[:, self.lane_channels()]).ravel(), table

    @abstractmethod
    def lane_channels(self) -> npt.NDArray[np.int64]:
        """Channel of each byte lane."""

    @abstractmethod
    def table(self) -> npt.NDArray[np.uint8]:
        """uint8[tables, 256, 16], flat."""


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

    def lane_channels(self) -> npt.NDArray[np.int64]:
        """Channels in order."""
        return np.arange(CHANNELS)


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

    def lane_channels(self) -> npt.NDArray[np.int64]:
        """Even lanes have the lower half of the channels, so that parted sums are in order."""
        return np.arange(CHANNELS).reshape(2, -1).T.ravel()


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


def pair_lookup(isa: Any, planes: int, integers: tuple[int, ...], ones: int) -> PairLookup | None:
    """The look-ups for codes of `planes` planes; None where one plane leaves nothing to pair.

    Args:
        isa: instruction set.
        planes: of the codes.
        integers: n_j of the planes where all bases are integers; empty otherwise.
        ones: the most ones that a plane of an output channel's weights has.
    """
    if planes == 1:
        return None
    group = levels_group(integers, ones) if integers else 0
    if group == 0:
        return LookupCounts(isa=isa, planes=planes)
    size = -(-planes // 2) * ROWS * ROW_BYTES
    return LookupLevels(isa=isa, planes=planes, integers=integers, group=group, table_size=size)


def pair_tile(family: PairLookup, shape: ConvShape, vectors: int, blocks: int | None, first_cache_bytes: int) -> Tile:
    """The tile of a kernel of pair look-ups.

    Several vectors of channels share the rows of a pixel, as long as their weights stay in the first-level cache;
    several pixels share weights that come from beyond it.

    Args:
        family: the look-ups.
        shape: loop nest.
        vectors: of output channels.
        blocks: vectors of a tile where they are given.
        first_cache_bytes: what weights may take of the first-level cache.
    """
    outputs = max(1, PASS_OUTPUTS // shape.weight_planes)
    taps = shape.kernel[0] * shape.kernel[1] * shape.words
    slab = taps * family.vectors * CHANNELS * shape.weight_planes
    fitting = [n for n in (8, 4, 2) if n <= outputs and vectors % n == 0 and n * slab <= first_cache_bytes]
    count = blocks or max(fitting, default=1)
    together = max(1, outputs // count)
    columns = shape.tile_columns
    # Passes of a short row end where it does; tiles of one pass would overlap.
    pixels = columns if columns % together and columns < SHORT_ROW else min(columns, together)
    return Tile(pixels=pixels, blocks=count)


class PairLookupBuilder(ContractionBuilder):
    """The template with rows of a table in place of broadcast words."""

    family: Any

    @property
    def levels(self) -> bool:
        """Whether planes of activations are combined in the table."""
        combined: bool = self.family.combines_codes
        return combined

    def pixel_elements(self) -> int:
        """Row offsets of a pixel."""
        steps: int = self.family.pixel_steps(self.shape)
        return steps

    def prepare(self) -> None:
        """Counts, and where in the table each look-up finds its row."""
        super().prepare()
        shape, form = self.shape, self.shape.source
        count = form.plane
        lanes = 8 if count % 8 == 0 else 4
        steps = self.family.pixel_steps(shape)
        start = workspace_size(shape, self.rule)
        byte, wide = f"uint8x{lanes}", f"int32x{lanes}"
        with T.serial(0, form.padded_height * form.padded_width) as pixel:
            for pair in range(self.family.plane_pairs):
                with T.serial(0, count // lanes) as part:
                    at = T.bind(pixel * form.pixel + 2 * pair * count + part * lanes)
                    first = T.bind(self.source[T.ramp(at, 1, lanes)])
                    low, high = first & _splat(15, lanes), T.shift_right(first, _splat(4, lanes))
                    if 2 * pair + 1 < self.family.planes:
                        second = T.bind(self.source[T.ramp(at + count, 1, lanes)])
                        low = low | T.shift_left(second, _splat(4, lanes))
                        high = high | (second & _splat(0xF0, lanes))
                    for half, rows in enumerate((low, high)):
                        to = start + pixel * steps + (2 * pair + half) * count + part * lanes
                        table = T.broadcast(T.int32(pair * ROWS * ROW_BYTES if self.levels else 0), lanes)
                        offset = T.cast(T.reinterpret(byte, rows), wide) * T.broadcast(T.int32(ROW_BYTES), lanes)
                        T.buffer_store(self.counts, offset + table, [T.ramp(to, 1, lanes)])

    def popcount(self, pixel: Expr, plane: int) -> Expr:
        """Ones in a plane of a pixel; of levels, the sum of its codes."""
        if not self.levels:
            return super().popcount(pixel, plane)
        held = registers(1, "int32")
        T.buffer_store(held, T.int32(0), [0])
        for j, factor in enumerate(self.family.integers):
            T.buffer_store(held, held[0] + super().popcount(pixel, j) * factor, [0])
        return held[0]

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums of a tile as single elements, in passes of as many pixels as registers allow."""
        count = self.pairs * self.pixels * self.tile.blocks
        elements = registers(count * CHANNELS, self.family.total)
        start = workspace_size(self.shape, self.rule)
        offsets = [T.bind(start + base) for base in bases]
        size = max(1, PASS_OUTPUTS // (self.shape.weight_planes * self.tile.blocks))
        for first in range(0, len(offsets), size):
            _Pass(self, block, offsets[first : first + size], first, elements).run()
        return elements

    def narrow(self, totals: Any) -> Any:
        """They are."""
        return totals


class _Pass:
    """The look-ups of some pixels over all taps."""

    def __init__(self, builder: PairLookupBuilder, block: Expr, bases: Sequence[Expr], first: int, out: Any) -> None:
        self.builder, self.block, self.bases, self.first, self.out = builder, block, bases, first, out
        self.family, self.shape, self.blocks = builder.family, builder.shape, builder.tile.blocks
        self.separate = 1 if builder.levels else self.family.plane_pairs
        self.kind = "uint16x16" if builder.levels else "uint8x32"
        self.count = 2 * self.separate * self.shape.weight_planes * len(bases) * self.blocks
        self.held = zeros(self.count, self.kind)

    def run(self) -> None:
        shape = self.shape
        rows, columns = shape.kernel
        width, pixel = shape.source.padded_width, self.family.pixel_steps(shape)
        steps = WORD_STEPS * shape.words
        most = LARGEST_BYTE // STEP_CHANNELS
        taps = rows * columns if self.builder.levels else most // steps
        part = steps if taps else max(size for size in range(1, most + 1) if steps % size == 0)
        if taps < rows * columns:
            self._clear()
        with T.serial(0, rows) as r:
            with T.serial(0, columns) as c:
                offset = T.bind((r * shape.dilations[0] * width + c * shape.dilations[1]) * pixel)
                first = T.bind(((self.block * rows + r) * columns + c) * steps)
                if part == steps:
                    self._steps(offset, first, steps)
                else:
                    with T.serial(0, steps // part) as index:
                        self._steps(offset + index * part, first + index * part, part)
                        self._flush()
                if part == steps and taps < columns:
                    self._flush()
            if columns <= taps < rows * columns:
                self._flush()
        if taps >= rows * columns:
            self._store()

    def _steps(self, offset: Expr, first: Expr, count: int) -> None:
        """`count` look-ups of each pixel and pair of planes."""
        groups, rest = divmod(count, self.family.group)
        if groups == 1:
            self._group(offset, first, self.family.group)
        elif groups:
            with T.serial(0, groups) as index:
                skip = index * self.family.group
                self._group(offset + skip, first + skip, self.family.group)
        if rest:
            self._group(offset + (count - rest), first + (count - rest), rest)

    def _group(self, offset: Expr, first: Expr, count: int) -> None:
        """Look-ups whose bytes are added, then parted."""
        pairs = range(self.family.plane_pairs)
        if self.builder.levels:
            self._sum(offset, first, count, pairs, 0)
        else:
            for pair in pairs:
                self._sum(offset, first, count, (pair,), pair)

    def _sum(self, offset: Expr, first: Expr, count: int, pairs: Sequence[int], place: int) -> None:
        builder, planes, blocks = self.builder, self.shape.weight_planes, self.blocks
        tap = WORD_STEPS * self.shape.words
        sums: dict[tuple[int, int], Expr] = {}
        for k in range(count):
            at = (first + k) * (planes * blocks * CHANNELS)
            weights = [T.bind(builder.weights[T.ramp(at + o * CHANNELS, 1, CHANNELS)]) for o in range(planes * blocks)]
            for pair in pairs:
                for m, base in enumerate(self.bases):
                    row = self._row(base + offset + (pair * tap + k))
                    for o, nibbles in enumerate(weights):
                        found = T.call_llvm_pure_intrin("uint8x32", "llvm.x86.avx2.pshuf.b", row, nibbles)
                        sums[m, o] = T.bind(sums[m, o] + found if (m, o) in sums else found)
        single = not builder.levels and 2 * place + 1 == self.family.planes
        for (m, o), value in sums.items():
            self._part(self._place(place, m, o), value, single)

    def _row(self, at: Expr) -> Expr:
        """16 entries in both halves of a vector (VBROADCASTI128)."""
        row = self.builder.table[T.ramp(self.builder.counts[at], 1, ROW_BYTES)]
        half = T.bind(T.reinterpret("uint64x2", row))
        return T.bind(T.reinterpret("uint8x32", T.Shuffle([half, half], [0, 1, 0, 1])))

    def _place(self, pair: int, m: int, o: int) -> int:
        return 2 * ((pair * len(self.bases) + m) * self.shape.weight_planes * self.blocks + o)

    def _part(self, place: int, value: Expr, single: bool) -> None:
        """Adds bytes to all, and their upper parts to what those sum up to."""
        held = self.held
        if self.builder.levels:
            words = T.bind(T.reinterpret("uint16x16", value))
            T.buffer_store(held, held[place] + words, [place])
            T.buffer_store(held, held[place + 1] + T.shift_right(words, _splat16(8)), [place + 1])
            return
        T.buffer_store(held, held[place] + value, [place])
        if not single:
            words = T.shift_right(T.reinterpret("uint16x16", value), _splat16(4))
            upper = T.reinterpret("uint8x32", words) & _splat(15, CHANNELS)
            T.buffer_store(held, held[place + 1] + upper, [place + 1])

    def _parts(self, place: int) -> tuple[Expr, Expr]:
        """Sums of the lower and of the upper parts."""
        whole, upper = self.held[place], self.held[place + 1]
        if self.builder.levels:
            return whole - T.shift_left(upper, _splat16(8)), upper
        words = T.shift_left(T.reinterpret("uint16x16", upper), _splat16(4))
        return whole - (T.reinterpret("uint8x32", words) & _splat(0xF0, CHANNELS)), upper

    def _elements(self) -> list[tuple[int, Expr]]:
        """(place of 16 or 32 elements among the results, their sums) of all accumulators."""
        found: list[tuple[int, Expr]] = []
        blocks, planes = self.blocks, self.shape.weight_planes
        for m in range(len(self.bases)):
            for o in range(planes * blocks):
                i, n = divmod(o, blocks)
                for pair in range(self.separate):
                    parts = self._parts(self._place(pair, m, o))
                    for upper, value in enumerate(parts):
                        if self.builder.levels:
                            at = self.builder.index(i, 0, self.first + m, n) * CHANNELS + 16 * upper
                            found.append((at, value))
                        elif 2 * pair + upper < self.family.planes:
                            at = self.builder.index(i, 2 * pair + upper, self.first + m, n) * CHANNELS
                            found.append((at, T.cast(value, "uint16x32")))
        return found

    def _store(self) -> None:
        for at, value in self._elements():
            lanes = 16 if self.builder.levels else CHANNELS
            T.buffer_store(self.out, value, [T.ramp(at, 1, lanes)])

    def _clear(self) -> None:
        for at, _ in self._elements():
            T.buffer_store(self.out, zero("uint16x32"), [T.ramp(at, 1, CHANNELS)])

    def _flush(self) -> None:
        """Bytes to 16 bits."""
        for at, value in self._elements():
            place = [T.ramp(at, 1, CHANNELS)]
            T.buffer_store(self.out, self.out[place[0]] + value, place)
        for index in range(self.count):
            T.buffer_store(self.held, zero(self.kind), [index])


def _splat(value: int, lanes: int) -> Expr:
    return T.broadcast(T.uint8(value), lanes)


def _splat16(value: int) -> Expr:
    return T.broadcast(T.uint16(value), 16)
