"""Popcount on ARM: AND and CNT on bit planes, with the accumulators of a pass in registers.

A pass takes up to two planes of the weights, two of the activations, and as many pixels and vectors of channels as make
four vectors of accumulators: 16 registers. Fused pooling and more planes take several passes over the taps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .contraction import ContractionBuilder
from .epilogue import Epilogue
from .isa import Expr, registers, zero, zeros
from .neon import LANES, Neon
from .problem import ConvShape, SumRule, Tile
from .words import BitWords

UNROLL = 4
"""Words of one tap that are counted without a branch."""

LIMITS = {"uint8": 31, "uint16": 4095}
"""Steps that a counter survives: one adds at most 8 bits to a byte, 16 to two bytes."""

NEXT = {"uint8": "uint16", "uint16": "uint32"}

PLANES = 2
"""Most planes of weights, and of activations, that share a pass."""

VECTORS = 4
"""Vectors of accumulators of a pass."""


@dataclass(frozen=True, kw_only=True)
class Popcount(BitWords):
    """Population counts in byte counters, in 16-bit counters (UADALP) or in 32-bit ones (UDOT).

    Byte counters take one instruction less in flight for each step; in-order cores gain from UADALP, and UDOT never
    has to be flushed.
    """

    isa: Neon

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds ``popcount(weight & activation)``."""
        counts = T.popcount(T.reinterpret("uint8x64", weight[0] & activation[0]))
        if self.accumulator == "uint32":
            return self.isa.add_quads(accumulator, counts)
        return accumulator + (self.isa.add_pairs(counts, "uint8") if self.accumulator == "uint16" else counts)

    def widen(self, value: Expr, dtype: str, wide: str) -> Expr:
        """Counters of type `dtype` as counters of the type `wide`, neighbours added up."""
        while dtype != wide:
            value, dtype = self.isa.add_pairs(value, dtype), NEXT[dtype]
        return value

    def contraction(
        self, shape: ConvShape, tile: Tile, rule: SumRule, epilogue: Epilogue, parallel: bool = True
    ) -> Any:
        """See `Words.contraction`."""
        return PlaneBuilder(self.isa, self, shape, tile, rule, epilogue, parallel).build()


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What is counted at once: planes of weights and activations, pixels, and vectors of channels."""

    weights: range
    acts: range
    pixels: range
    blocks: range

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """(weight plane, activation plane, pixel, vector) of each accumulator."""
        return itertools.product(self.weights, self.acts, self.pixels, self.blocks)


def passes(weight_planes: int, act_planes: int, pixels: int, blocks: int) -> list[Pass]:
    """The passes over a tile."""
    found = []
    for weights, acts in itertools.product(groups(weight_planes, PLANES), groups(act_planes, PLANES)):
        pairs = len(weights) * len(acts)
        for vectors in groups(blocks, max(1, VECTORS // pairs)):
            most = max(1, VECTORS // (pairs * len(vectors)))
            found += [Pass(weights=weights, acts=acts, pixels=part, blocks=vectors) for part in groups(pixels, most)]
    return found


def popcount_tile(shape: ConvShape, rule: SumRule, pool: tuple[int, int], blocks: int | None = None) -> Tile:
    """The tile whose passes take the fewest cycles: two vector instructions a cycle, one load.

    Args:
        shape: loop nest.
        rule: how sums combine.
        pool: fused pooling window.
        blocks: vectors of channels, where they are given by packed weights.
    """
    columns, window = shape.tile_columns, pool[0] * pool[1]

    def cost(tile: Tile) -> tuple[float, int]:
        cycles = 0.0
        parts = passes(shape.weight_planes, rule.act_planes, tile.pixels * window, tile.blocks)
        for part in parts:
            broadcasts, weights = len(part.acts) * len(part.pixels), 4 * len(part.weights) * len(part.blocks)
            cycles += max((3 * 4 * len(list(part)) + broadcasts) / 2, broadcasts + weights)
        repeats = -(-columns // tile.pixels) / columns
        return cycles * repeats / tile.blocks, len(parts)

    counts = [count for count in (1, 2, 4) if shape.blocks % count == 0] if blocks is None else [blocks]
    pixels = range(1, min(columns, VECTORS) + 1)
    return min((Tile(pixels=most, blocks=count) for count in counts for most in pixels), key=cost)


def groups(count: int, most: int) -> list[range]:
    """``range(count)`` in pieces of at most `most`, as equal as can be."""
    pieces = -(-count // most)
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    return [range(low, high) for low, high in itertools.pairwise(bounds)]


class PlaneBuilder(ContractionBuilder):
    """A contraction on bit planes in passes."""

    family: Popcount

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Counts of all passes, as int32 vectors."""
        totals = registers(self.pairs * len(bases) * self.tile.blocks, f"int32x{LANES}")
        for part in passes(self.shape.weight_planes, self.rule.act_planes, len(bases), self.tile.blocks):
            counts, dtype = self._count(part, block, bases)
            for place, (i, j, m, n) in enumerate(part):
                total = self.family.widen(counts[place], dtype, "uint32")
                T.buffer_store(totals, T.reinterpret(f"int32x{LANES}", total), [self._index(i, j, m, n)])
        return totals

    def _count(self, part: Pass, block: Expr, bases: Sequence[Expr]) -> tuple[Any, str]:
        """Counters of a pass, and the type of their elements."""
        shape, family = self.shape, self.family
        rows, columns = shape.kernel
        steps = rows * columns * shape.words
        narrow = family.accumulator
        limit = LIMITS.get(narrow, steps)
        count = len(list(part))
        accumulators = zeros(count, counters(narrow))
        if steps <= limit:
            wide, totals = narrow, accumulators
        else:
            wide = "uint16" if narrow == "uint8" and steps <= LIMITS["uint16"] else "uint32"
            totals = zeros(count, counters(wide))

        def flush() -> None:
            for place in range(count):
                widened = family.widen(accumulators[place], narrow, wide)
                T.buffer_store(totals, totals[place] + widened, [place])
                T.buffer_store(accumulators, zero(counters(narrow)), [place])

        pixel, width = shape.source.pixel, shape.source.padded_width
        with T.serial(0, rows) as r:
            with T.serial(0, columns) as c:
                offset = T.bind((r * shape.dilations[0] * width + c * shape.dilations[1]) * pixel)
                first = T.bind(((block * rows + r) * columns + c) * shape.words)
                for words in groups(shape.words, limit):
                    self._run(part, bases, offset, first, words, accumulators)
                    if columns * shape.words > limit:
                        flush()
            if columns * shape.words <= limit < steps:
                flush()
        return totals, wide

    def _run(
        self, part: Pass, bases: Sequence[Expr], offset: Expr, first: Expr, words: range, accumulators: Any
    ) -> None:
        """Consecutive words of one tap, unrolled."""
        whole = len(words) - len(words) % UNROLL if len(words) > UNROLL else 0
        if whole:
            with T.serial(0, whole // UNROLL) as k:
                for word in range(UNROLL):
                    at = words.start + k * UNROLL + word
                    self._step(part, bases, offset, first, at, accumulators)
        for word in words[whole:]:
            self._step(part, bases, offset, first, word, accumulators)

    def _step(
        self, part: Pass, bases: Sequence[Expr], offset: Expr, first: Expr, word: Expr, accumulators: Any
    ) -> None:
        """One word of one tap."""
        shape, family = self.shape, self.family
        acts: dict[tuple[int, int], list[Expr]] = {}
        weights: dict[tuple[int, int], Expr] = {}
        for place, (i, j, m, n) in enumerate(part):
            if (j, m) not in acts:
                at = bases[m] + (offset + j * shape.source.plane + word * family.word_elements)
                acts[j, m] = [T.bind(vector) for vector in family.activation(self.source, at)]
            if (i, n) not in weights:
                row = ((first + word) * shape.weight_planes + i) * self.tile.blocks + n
                weights[i, n] = T.bind(self.weights[T.ramp(row * LANES, 1, LANES)])
            result = family.step(accumulators[place], acts[j, m], [weights[i, n]])
            T.buffer_store(accumulators, result, [place])


def counters(dtype: str) -> str:
    """The vector type of the counters of 16 channels."""
    return f"{dtype}x{LANES * 4 // {'uint8': 1, 'uint16': 2, 'uint32': 4}[dtype]}"
