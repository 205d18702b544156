"""Passes of pair look-ups: a few outputs, whose sums of bytes stay in registers, over taps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import TYPE_CHECKING, Any

from tvm.script.ir_builder import tirx as T

from .isa import Expr, zero, zeros
from .problem import ConvShape
from .x86_lut_vectors import ROW_BYTES, shuffle, splat, splat_words, spread, words_of, words_type

if TYPE_CHECKING:
    from .x86_lut_nest import PairLookupBuilder

ROWS = 256
"""Of a table: four codes of two planes or two pixels."""

STEP_CHANNELS = 4
"""Input channels of a look-up."""

WORD_STEPS = 2
"""Look-ups of a byte of eight channels."""

LARGEST_BYTE = 255

ALWAYS_FIT = LARGEST_BYTE // STEP_CHANNELS
"""Look-ups whose counts a byte holds, whatever the weights."""


def runs(shape: ConvShape, pairs: int) -> tuple[int, int]:
    """Columns of taps, and look-ups of one: neighbours whose rows of a table follow one another count as one.

    Args:
        shape: loop nest.
        pairs: of planes of codes.
    """
    steps = WORD_STEPS * shape.words
    columns = shape.kernel[1]
    return (1, columns * steps) if pairs == 1 and shape.dilations[1] == 1 else (columns, steps)


class Pass:
    """The look-ups of some groups of pixels over all taps, or over a piece of them.

    Attributes:
        half: of the channels of a vector: the sums of 16 bits that a vector holds. Even byte lanes have the lower half.
    """

    def __init__(
        self,
        builder: PairLookupBuilder,
        block: Expr,
        bases: Sequence[Expr],
        groups: Sequence[tuple[int, ...]],
        out: Any,
    ) -> None:
        self.builder, self.block, self.groups, self.out = builder, block, groups, out
        self.family, self.shape, self.blocks = builder.family, builder.shape, builder.tile.blocks
        self.isa, self.channels, self.half = self.family.isa, self.family.channels, self.family.channels // 2
        self.bases = [T.bind(base) for base in bases]
        self.separate = 1 if builder.levels else self.family.plane_pairs
        self.kind = words_type(self.isa) if builder.levels else self.isa.bytes_type
        self.count = 2 * self.separate * self.shape.weight_planes * len(bases) * self.blocks
        self.held = zeros(self.count, self.kind)
        self.columns, self.tap_steps = runs(self.shape, self.family.plane_pairs)

    def store_all(self) -> None:
        """All taps, then the sums."""
        if self.builder.levels:
            with T.serial(0, self.shape.kernel[0]) as r:
                repeat(self.columns, lambda c: self._tap(r, c, 0, self.tap_steps))
            for at, value in self._elements():
                T.buffer_store(self.out, value, [T.ramp(at, 1, self.half)])
            return
        for at, _ in self._elements():
            T.buffer_store(self.out, zero(words_type(self.isa)), [T.ramp(at, 1, self.half)])
        with T.serial(0, self.shape.kernel[0]) as r:
            self._row(r, 0, self.columns, 0, self.tap_steps)

    def add_piece(self, piece: Expr) -> None:
        """The taps of one piece, added to the sums."""
        rows, pieces = self.shape.kernel[0], self.builder.pieces
        taps = self.columns if pieces == rows else 1
        across = self.columns // taps
        cuts = pieces // (rows * across)
        count = self.tap_steps // cuts
        r, c, skip = T.bind(piece // (across * cuts)), T.bind(piece // cuts % across), T.bind(piece % cuts * count)
        self._row(r, c, taps, skip, count)
        if self.builder.levels:
            self._flush()

    def _row(self, r: Expr, first: Expr, taps: int, skip: Expr, count: int) -> None:
        """`count` look-ups of each of some taps of a row; counts are flushed before their bytes overflow."""
        part = count if self.builder.levels else self.family.unflushed(count)
        seldom = self.builder.levels or taps * count <= ALWAYS_FIT or taps * count == part

        def tap(c: Expr) -> None:
            if part == count:
                self._tap(r, c, skip, count)
                if not seldom:
                    self._flush()
                return
            with T.serial(0, count // part) as index:
                self._tap(r, c, skip + index * part, part)
                self._flush()

        repeat(taps, lambda index: tap(first + index))
        if seldom and not self.builder.levels:
            self._flush()

    def _tap(self, r: Expr, c: Expr, skip: Expr, count: int) -> None:
        """`count` look-ups of one tap."""
        shape = self.shape
        taps = r * shape.dilations[0] * shape.source.padded_width + c * shape.dilations[1]
        offset = T.bind(taps * self.family.pixel_steps(shape) + skip)
        first = T.bind(((self.block * shape.kernel[0] + r) * self.columns + c) * self.tap_steps + skip)
        self._steps(offset, first, count)

    def _steps(self, offset: Expr, first: Expr, count: int) -> None:
        """`count` look-ups of each pixel and pair of planes."""
        size = self.family.group
        groups, rest = divmod(count, size)
        together = gcd(groups, self.builder.tile.unroll)

        def turn(index: Expr) -> None:
            for part in range(together):
                skip = (index * together + part) * size
                self._group(offset + skip, first + skip, size)

        if groups:
            repeat(groups // together, turn)
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
        builder, channels = self.builder, self.channels
        outputs = self.shape.weight_planes * self.blocks
        sums: dict[tuple[int, int], Expr] = {}
        for k in range(count):
            at = (first + k) * (outputs * channels)
            weights = [T.bind(builder.weights[T.ramp(at + o * channels, 1, channels)]) for o in range(outputs)]
            for pair in pairs:
                for m, base in enumerate(self.bases):
                    row = self._table_row(base + offset + (pair * self.tap_steps + k))
                    for o, nibbles in enumerate(weights):
                        found = shuffle(row, nibbles, self.isa)
                        sums[m, o] = T.bind(sums[m, o] + found if (m, o) in sums else found)
        # A plane without a partner leaves the upper nibbles empty; a pixel's neighbour is there, wanted or not.
        single = not builder.levels and 2 * place + 1 == self.family.planes and not self.family.pairs_pixels
        for (m, o), value in sums.items():
            self._part(self._place(place, m, o), value, single)

    def _table_row(self, at: Expr) -> Expr:
        return spread(self.builder.table[T.ramp(self.builder.counts[at], 1, ROW_BYTES)], self.isa)

    def _meanings(self, m: int, pair: int) -> list[tuple[int, int]]:
        """(activation plane, pixel) of the lower part of an entry and, where it is wanted, of the upper one."""
        if self.builder.levels:
            return [(0, self.groups[m][0])] * 2
        if self.family.pairs_pixels:
            return [(0, pixel) for pixel in self.groups[m]]
        return [(plane, self.groups[m][0]) for plane in range(2 * pair, min(2 * pair + 2, self.family.planes))]

    def _place(self, pair: int, m: int, o: int) -> int:
        return 2 * ((pair * len(self.bases) + m) * self.shape.weight_planes * self.blocks + o)

    def _part(self, place: int, value: Expr, single: bool) -> None:
        """Adds bytes to all, and their upper parts to what those sum up to."""
        held, isa = self.held, self.isa
        if self.builder.levels:
            words = T.bind(words_of(value, isa))
            T.buffer_store(held, held[place] + words, [place])
            T.buffer_store(held, held[place + 1] + T.shift_right(words, splat_words(8, isa)), [place + 1])
            return
        T.buffer_store(held, held[place] + value, [place])
        if not single:
            words = T.shift_right(words_of(value, isa), splat_words(4, isa))
            upper = T.reinterpret(isa.bytes_type, words) & splat(15, self.channels)
            T.buffer_store(held, held[place + 1] + upper, [place + 1])

    def _parts(self, place: int) -> tuple[Expr, Expr]:
        """Sums of the lower and of the upper parts."""
        isa, whole, upper = self.isa, self.held[place], self.held[place + 1]
        if self.builder.levels:
            return whole - T.shift_left(upper, splat_words(8, isa)), upper
        words = T.shift_left(words_of(upper, isa), splat_words(4, isa))
        return whole - (T.reinterpret(isa.bytes_type, words) & splat(0xF0, self.channels)), upper

    def _elements(self) -> list[tuple[Expr, Expr]]:
        """(place among the results, half a vector's sums of 16 bits) of all accumulators."""
        found: list[tuple[Expr, Expr]] = []
        for m in range(len(self.bases)):
            for o in range(self.shape.weight_planes * self.blocks):
                i, n = divmod(o, self.blocks)
                for pair in range(self.separate):
                    values = self._parts(self._place(pair, m, o))
                    for half, ((j, pixel), value) in enumerate(zip(self._meanings(m, pair), values, strict=False)):
                        at = self.builder.start + self.builder.index(i, j, pixel, n) * self.channels
                        if self.builder.levels:
                            found.append((at + self.half * half, value))
                            continue
                        words = T.bind(words_of(value, self.isa))
                        found.append((at, words & splat_words(LARGEST_BYTE, self.isa)))
                        found.append((at + self.half, T.shift_right(words, splat_words(8, self.isa))))
        return found

    def _flush(self) -> None:
        """Adds what the accumulators hold to the sums, and clears them."""
        for at, value in self._elements():
            place = [T.ramp(at, 1, self.half)]
            T.buffer_store(self.out, self.out[place[0]] + value, place)
        for index in range(self.count):
            T.buffer_store(self.held, zero(self.kind), [index])


def repeat(count: int, body: Callable[[Expr], None]) -> None:
    """A loop, unless it has one turn."""
    if count == 1:
        body(T.int32(0))
        return
    with T.serial(0, count) as index:
        body(index)
