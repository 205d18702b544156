"""Weight-only layers: float32 activations times weights that stay packed in memory, one bit per plane.

    y = sum_i v_i * sum_k (+-x_k) + w0 * sum_k x_k      in float32; the order of summation is free

A layer with one output pixel uses each weight once, so bytes decide: sums with signs come straight from the bits
(`SignedSums`). With more pixels the weights of a tile's channels are expanded to floats once, in the second-level
cache, and the float32 loop nest runs over all pixels (`Expanded`), or over transformed tiles of them, which takes fewer
multiplications (`schedules.packed_winograd`). Where an instruction looks up floats in a vector
(VPERMPS), a signed sum of three or four activations is one look-up; elsewhere signs are flipped one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy.typing as npt
from tvm.script.ir_builder import tirx as T

from .contraction import ContractionBuilder, tile_weights
from .isa import STACK, Expr, Isa, broadcast, constant, load, store, vector, zeros
from .packed_winograd import TransformedTiles, fits, transformed_size
from .problem import ConvShape, Problem, SumRule, Tile, estimated_us
from .row_tiles import RowTileBuilder
from .words import WORD, FloatFma, Words

SIGN = 1 << 31
"""Sign bit of a float32."""

LATENCY = 4
"""Additions to one accumulator start this many cycles apart: fewer accumulators than this are doubled."""

Signed = Callable[[Expr], Expr]
"""From a vector of packed words to a float32 vector."""

EachWord = Callable[[Expr, Expr, int], None]
"""Called with the index of a word, the element of the input that it starts at, and the channels in it."""


class Permuting(Isa, Protocol):
    """An instruction set that looks up floats in a vector."""

    def permute(self, table: Expr, index: Expr) -> Expr:
        """``table[index % lanes]`` for each lane of a uint32 vector: a float32 vector."""


@dataclass(frozen=True, kw_only=True)
class Packed(Words):
    """Weights as bit planes.

    Args:
        group: activations that make one look-up; 0 for none: signs are flipped.
        tiles: whether 3x3 convolutions run on transformed tiles.
    """

    accumulator: str = "float32"
    weight_dtype: str = "uint32"
    word_elements: int = 1
    cycles: float = 0.5
    group: int = 0
    tiles: bool = False

    def tiled(self, shape: ConvShape) -> bool:
        """Whether a nest runs on transformed tiles."""
        return self.tiles and fits(shape)

    def signed(self, value: Expr, words: Expr, position: Expr) -> Expr:
        """`value` with the signs that bit `position` of the words stands for."""
        return flip(value, words, position, self.isa)

    def nest(self, shape: ConvShape) -> ConvShape:
        """With more than one output pixel the loop nest runs over floats: one word for each input channel."""
        return shape if is_vector(shape) else replace(shape, words=shape.source.channels, weight_planes=1)

    def workspace(self, shape: ConvShape, rule: SumRule) -> int:  # noqa: ARG002
        """int32 elements of the tables of signed sums, or of the transformed input."""
        if self.tiled(shape):
            return transformed_size(shape)
        if not self.group or not is_vector(shape):
            return 0
        return shape.kernel[0] * shape.kernel[1] * shape.words * self.look_ups(WORD) * self.isa.lanes

    @property
    def word_cycles(self) -> float:
        """Cycles of a packed word: three instructions for a look-up, four for a flipped sign, two in a cycle."""
        return 1.5 * self.look_ups(WORD) if self.group else 2.0 * WORD

    def look_ups(self, channels: int) -> int:
        """Look-ups for a word of `channels` activations."""
        return -(-channels // self.group)

    def contraction(self, problem: Problem) -> Any:
        """The PrimFunc, with a weight basis float32[rows, channels]."""
        shape = problem.shape
        builder = SignedSums if is_vector(shape) else TransformedTiles if self.tiled(shape) else Expanded
        return builder(self, problem).build()

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Words [O, P, kh, kw, W, 1] by tiles; a set bit is +1 in a look-up, and -1 where signs are flipped."""
        looked_up = self.group and is_vector(shape)
        return (tile_weights(words if looked_up else ~words, shape.blocks, tile.blocks, self.isa.lanes),)


def is_vector(shape: ConvShape) -> bool:
    """Whether a layer has one output pixel, so that it uses each weight once."""
    return (shape.out_height, shape.out_width) == (1, 1)


def flip(value: Expr, words: Expr, position: Expr, isa: Isa) -> Expr:
    """`value` (float32 vector) with its sign changed in the lanes whose word has bit `position` set."""
    unsigned = vector("uint32", isa)
    shift = broadcast(T.cast(WORD - 1 - position, "uint32"), isa)
    sign = T.bitwise_and(T.shift_left(words, shift), constant(SIGN, "uint32", isa))
    return T.reinterpret(vector("float32", isa), T.bitwise_xor(T.reinterpret(unsigned, value), sign))


class SignedSums(RowTileBuilder):
    """One output pixel: sums of activations with the signs of the weights' bits."""

    family: Any

    def estimated_us(self) -> float:
        """Rough time on one core."""
        shape = self.shape
        words = shape.kernel[0] * shape.kernel[1] * shape.words * shape.weight_planes * shape.blocks
        return estimated_us(words, self.family.word_cycles, shape.blocks)

    def basis_rows(self) -> int:
        """A row for each plane, and one for the offset."""
        return self.rule.weight_basis

    def prepare(self) -> None:
        """Tables: entry e of a group holds the sum of +x_i where bit i of e is set, and of -x_i where it is not."""
        isa, group = self.isa, self.family.group
        entry, one = T.ramp(T.int32(0), 1, isa.lanes), constant(1, "int32", isa)
        bits = [T.bitwise_and(T.shift_right(entry, constant(i, "int32", isa)), one) for i in range(group)]
        signs = [T.cast(bit + bit - one, vector("float32", isa)) for bit in bits]

        def word(index: Expr, base: Expr, channels: int) -> None:
            for step in range(self.family.look_ups(channels)):
                table = None
                for k in range(step * group, min((step + 1) * group, channels)):
                    term = broadcast(self.source[base + k], isa) * signs[k % group]
                    table = term if table is None else table + term
                store(self.counts, T.reinterpret(vector("int32", isa), table), self._table(index, step), isa)

        self._each_word(word)

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:  # noqa: ARG002
        """Signed sums of all planes and vectors, then the sum of all activations where there is an offset."""
        isa, count = self.isa, self.shape.weight_planes * self.tile.blocks
        words_of_block = self.shape.kernel[0] * self.shape.kernel[1] * self.shape.words
        ways = -(-LATENCY // count)
        offset = self.rule.weight_basis > self.shape.weight_planes
        sums = zeros(count * ways + offset, vector("float32", isa))

        def word(index: Expr, base: Expr, channels: int) -> None:
            first = (block * words_of_block + index) * count
            words = [T.bind(load(self.weights, (first + p) * isa.lanes, isa)) for p in range(count)]
            steps = self._looked_up(index, channels) if self.family.group else self._flipped(base, channels)
            for step, (signed, plain) in enumerate(steps):
                for p, held in enumerate(words):
                    at = step % ways * count + p
                    T.buffer_store(sums, sums[at] + signed(held), [at])
                if offset:
                    T.buffer_store(sums, sums[count * ways] + plain, [count * ways])

        self._each_word(word)
        for p in range(count):
            total = sums[p]
            for way in range(1, ways):
                total = total + sums[way * count + p]
            T.buffer_store(sums, total, [p])
        return sums

    def value(self, totals: Any, m: int, n: Expr, position: tuple[Expr, Expr], channel: Expr) -> Expr:  # noqa: ARG002
        """One vector of y, float32."""
        planes, channels = self.shape.weight_planes, self.shape.blocks * self.isa.lanes
        result = load(self.basis, channel, self.isa) * totals[n]
        for i in range(1, planes):
            result = result + load(self.basis, i * channels + channel, self.isa) * totals[i * self.tile.blocks + n]
        if self.rule.weight_basis > planes:
            ways = -(-LATENCY // (planes * self.tile.blocks))
            plain = totals[planes * self.tile.blocks * ways]
            result = result + load(self.basis, planes * channels + channel, self.isa) * plain
        return T.bind(result)

    def _table(self, index: Expr, step: int) -> Expr:
        """Element of the workspace at which the table of a look-up starts."""
        return (index * self.family.look_ups(WORD) + step) * self.isa.lanes

    def _looked_up(self, index: Expr, channels: int) -> Iterator[tuple[Signed, Expr]]:
        """For each group of a word: its signed sum as a function of the words, and its plain sum."""
        isa: Any = self.isa
        floats = vector("float32", isa)
        for step in range(self.family.look_ups(channels)):
            at = self._table(index, step)
            table = T.bind(T.reinterpret(floats, load(self.counts, at, isa)))

            def signed(words: Expr, table: Expr = table, first: int = step * self.family.group) -> Expr:
                return isa.permute(table, T.shift_right(words, constant(first, "uint32", isa)))

            yield signed, T.reinterpret(floats, broadcast(self.counts[at + isa.lanes - 1], isa))

    def _flipped(self, base: Expr, channels: int) -> Iterator[tuple[Signed, Expr]]:
        """For each activation of a word: it with a sign as a function of the words, and without."""
        for k in range(channels):
            value = T.bind(broadcast(self.source[base + k], self.isa))

            def signed(words: Expr, value: Expr = value, k: int = k) -> Expr:
                return flip(value, words, T.int32(k), self.isa)

            yield signed, value

    def _each_word(self, body: EachWord) -> None:
        """Emits `body` for every word of the layer's inputs."""
        shape = self.shape
        whole, rest = divmod(shape.source.channels, WORD)
        with T.serial(0, shape.kernel[0]) as r, T.serial(0, shape.kernel[1]) as c:
            y, x = shape.origin[0] + r * shape.dilations[0], shape.origin[1] + c * shape.dilations[1]
            base = T.bind((y * shape.source.padded_width + x) * shape.source.pixel)
            first = T.bind((r * shape.kernel[1] + c) * shape.words)
            if whole:
                with T.serial(0, whole) as k:
                    body(first + k, base + k * WORD, WORD)
            if rest:
                body(first + whole, base + whole * WORD, rest)


class Expanded(ContractionBuilder):
    """More than one output pixel: weights of a tile's channels become floats, and the float32 loop nest reads those."""

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        shape = self.shape
        self.multiply: Any = FloatFma(isa=self.isa, accumulator="float32", weight_dtype="float32", cycles=0.5)
        self.words = -(-shape.words // WORD)
        self.tasks = shape.blocks // self.tile.blocks

    def weight_size(self) -> int:
        """Packed words."""
        shape = self.shape
        return shape.kernel[0] * shape.kernel[1] * self.words * self.rule.signed_planes * shape.blocks * self.isa.lanes

    def basis_rows(self) -> int:
        """A row for each plane, and one for the offset."""
        return self.rule.weight_basis

    def task(self, index: Expr) -> None:
        """One task: expand the weights of a tile's channels, then all rows."""
        shape = self.shape
        floats = shape.kernel[0] * shape.kernel[1] * shape.words * self.tile.blocks * self.isa.lanes
        self.expanded = T.alloc_buffer((floats,), "float32", scope="global", annotations=STACK)
        self._expand(index)
        with T.serial(0, shape.tile_rows) as row:
            self.row(index, row)

    def taps(self, block: Expr, bases: Sequence[Expr], accumulators: Any, totals: Any) -> None:  # noqa: ARG002
        """The float32 loop nest over expanded weights."""
        packed, family = self.weights, self.family
        self.weights, self.family = self.expanded, self.multiply
        super().taps(T.int32(0), bases, accumulators, totals)
        self.weights, self.family = packed, family

    def _expand(self, block: Expr) -> None:
        shape, isa, planes, blocks = self.shape, self.isa, self.rule.signed_planes, self.tile.blocks
        channels = shape.blocks * isa.lanes
        taps = shape.kernel[0] * shape.kernel[1]
        whole, rest = divmod(shape.words, WORD)

        def basis(row: int, n: int) -> Expr:
            return T.bind(load(self.basis, row * channels + (block * blocks + n) * isa.lanes, isa))

        rows = [[basis(row, n) for n in range(blocks)] for row in range(self.rule.weight_basis)]

        def word(tap: Expr, k: Expr, count: int) -> None:
            first = ((block * taps + tap) * self.words + k) * planes * blocks
            words = [T.bind(load(self.weights, (first + p) * isa.lanes, isa)) for p in range(planes * blocks)]
            with T.serial(0, count) as position:
                for n in range(blocks):
                    terms = [flip(rows[i][n], words[i * blocks + n], position, isa) for i in range(planes)]
                    terms += [row[n] for row in rows[planes:]]
                    value = terms[0]
                    for term in terms[1:]:
                        value = value + term
                    at = ((tap * shape.words + k * WORD + position) * blocks + n) * isa.lanes
                    store(self.expanded, value, at, isa)

        with T.serial(0, taps) as tap:
            if whole:
                with T.serial(0, whole) as k:
                    word(tap, k, WORD)
            if rest:
                word(tap, T.int32(whole), rest)
