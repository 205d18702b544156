"""Weight-only layers of one output pixel: sums of float32 activations with the signs that bits of weights stand for.

Where an instruction looks up floats in a vector (VPERMPS), a signed sum of three or four activations is one look-up;
elsewhere signs are flipped one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm.script.ir_builder import tirx as T

from .isa import Expr, Isa, broadcast, constant, load, store, vector, zeros
from .problem import estimated_us
from .row_tiles import RowTileBuilder
from .words import WORD

SIGN = 1 << 31
"""Sign bit of a float32."""

LATENCY = 4
"""Additions to one accumulator start this many cycles apart: fewer accumulators than this are doubled."""

Signed = Callable[[Expr], Expr]
"""From a vector of packed words to a float32 vector."""

EachWord = Callable[[Expr, Expr, int], None]
"""Called with the index of a word, the element of the input that it starts at, and the channels in it."""


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
