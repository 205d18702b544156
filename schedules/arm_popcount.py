"""Popcount on ARM: AND and CNT on bit planes, with the accumulators of a pass in registers.

A pass takes up to two planes of the weights, two of the activations, and as many pixels and vectors of channels as
there are registers for: four vectors of accumulators on 64-bit processors. Fused pooling and more planes take several
passes over the taps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .isa import Expr, registers, zero, zeros
from .neon import LANES, Neon
from .problem import ConvShape, SumRule, Tile
from .row_tiles import RowTileBuilder
from .words import BitWords

UNROLL = 4
"""Words of one tap that are counted without a branch."""

LIMITS = {"uint8": 31, "uint16": 4095}
"""Steps that a counter survives: one adds at most 8 bits to a byte, 16 to two bytes."""

NEXT = {"uint8": "uint16", "uint16": "uint32"}

PLANES = 2
"""Most planes of weights, and of activations, that share a pass."""


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What is counted at once: planes of weights and activations, vectors of channels, and how many pixels."""

    weights: range
    acts: range
    blocks: range
    pixels: int

    def __iter__(self) -> Iterator[tuple[int, int, int, int]]:
        """(weight plane, activation plane, pixel of the pass, vector) of each accumulator."""
        return itertools.product(self.weights, self.acts, range(self.pixels), self.blocks)


def passes(weight_planes: int, act_planes: int, pixels: int, blocks: int, most: int) -> list[Pass]:
    """The passes over a tile; each is repeated until it has seen all pixels.

    Args:
        weight_planes: planes of the weights.
        act_planes: planes of the activations.
        pixels: of the tile, positions of a pooling window counted one by one.
        blocks: vectors of channels of the tile.
        most: accumulators of a pass.
    """
    found = []
    for weights, acts in itertools.product(groups(weight_planes, PLANES), groups(act_planes, most // PLANES)):
        pairs = len(weights) * len(acts)
        for vectors in groups(blocks, max(1, most // pairs)):
            size = len(groups(pixels, max(1, most // (pairs * len(vectors))))[-1])
            found.append(Pass(weights=weights, acts=acts, blocks=vectors, pixels=size))
    return found


def popcount_tile(isa: Neon, shape: ConvShape, rule: SumRule, pool: tuple[int, int], blocks: int | None = None) -> Tile:
    """The tile whose passes take the fewest cycles: two vector instructions a cycle, one load.

    Args:
        isa: instruction set.
        shape: loop nest.
        rule: how sums combine.
        pool: fused pooling window.
        blocks: vectors of channels, where they are given by packed weights.
    """
    columns, window = shape.tile_columns, pool[0] * pool[1]

    def cost(tile: Tile) -> tuple[float, int]:
        cycles, positions = 0.0, tile.pixels * window
        for part in passes(shape.weight_planes, rule.act_planes, positions, tile.blocks, isa.accumulators):
            broadcasts, weights = len(part.acts) * part.pixels, 4 * len(part.weights) * len(part.blocks)
            step = max((3 * 4 * len(list(part)) + broadcasts) / 2, broadcasts + weights)
            cycles += step * -(-positions // part.pixels)
        repeats = -(-columns // tile.pixels) / columns
        return cycles * repeats / tile.blocks, tile.pixels * tile.blocks

    counts = [count for count in (1, 2, 4) if shape.blocks % count == 0] if blocks is None else [blocks]
    pixels = range(1, min(columns, isa.accumulators) + 1)
    return min((Tile(pixels=most, blocks=count) for count in counts for most in pixels), key=cost)


def groups(count: int, most: int) -> list[range]:
    """``range(count)`` in pieces of at most `most`, as equal as can be, the largest last."""
    pieces = -(-count // most)
    bounds = [count * piece // pieces for piece in range(pieces + 1)]
    return [range(low, high) for low, high in itertools.pairwise(bounds)]


class PlaneBuilder(RowTileBuilder):
    """A contraction on bit planes in passes."""

    windowed = True

    family: Popcount

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Counts of all passes, as int32 vectors."""
        totals = registers(self.pairs * len(bases) * self.tile.blocks, f"int32x{LANES}")
        held = registers(len(bases), "int32")
        for m, base in enumerate(bases):
            T.buffer_store(held, base, [m])
        planes = (self.shape.weight_planes, self.rule.act_planes)
        for part in passes(*planes, len(bases), self.tile.blocks, self.isa.accumulators):
            if part.pixels == len(bases):
                self._pass(part, block, bases, 0, totals)
                continue
            with T.serial(0, -(-len(bases) // part.pixels)) as index:
                # The last pass overlaps its neighbour instead of ending short.
                start = T.bind(T.min(index * part.pixels, len(bases) - part.pixels))
                self._pass(part, block, [T.bind(held[start + m]) for m in range(part.pixels)], start, totals)
        return totals

    def _pass(self, part: Pass, block: Expr, bases: Sequence[Expr], start: Expr, totals: Any) -> None:
        """Counts of the pixels of a tile from `start` on."""
        counts, dtype = self._count(part, block, bases)
        for place, (i, j, m, n) in enumerate(part):
            total = self.family.widen(counts[place], dtype, "uint32")
            T.buffer_store(totals, T.reinterpret(f"int32x{LANES}", total), [self.index(i, j, start + m, n)])

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

        def run(offset: Expr, first: Expr, start: Expr, words: int) -> None:
            """Consecutive words of one tap."""
            whole = words // UNROLL if words > UNROLL else 0
            if whole:
                with T.serial(0, whole) as k:
                    for word in range(UNROLL):
                        self._step(part, bases, offset, first, start + k * UNROLL + word, accumulators)
            for word in range(whole * UNROLL, words):
                self._step(part, bases, offset, first, start + word, accumulators)

        def tap(offset: Expr, first: Expr) -> None:
            """All words of one tap."""
            size = shape.words if shape.words <= limit else limit - limit % UNROLL
            if shape.words >= 2 * size:
                with T.serial(0, shape.words // size) as k:
                    run(offset, first, k * size, size)
                    flush()
            elif shape.words >= size:
                run(offset, first, T.int32(0), size)
                if columns * shape.words > limit:
                    flush()
            if shape.words % size:
                run(offset, first, T.int32(shape.words - shape.words % size), shape.words % size)
                flush()

        pixel, width = shape.source.pixel, shape.source.padded_width
        with T.serial(0, rows) as r:
            with T.serial(0, columns) as c:
                offset = T.bind((r * shape.dilations[0] * width + c * shape.dilations[1]) * pixel)
                tap(offset, T.bind(((block * rows + r) * columns + c) * shape.words))
            if columns * shape.words <= limit < steps:
                flush()
        return totals, wide

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


@dataclass(frozen=True, kw_only=True)
class Popcount(BitWords):
    """Population counts in byte counters, in 16-bit counters (UADALP) or in 32-bit ones (UDOT).

    Byte counters take one instruction less in flight for each step; in-order cores gain from UADALP, and UDOT never
    has to be flushed.
    """

    builder = PlaneBuilder
    isa: Neon

    def step(self, accumulator: Expr, activation: Sequence[Expr], weight: Sequence[Expr]) -> Expr:
        """Adds ``popcount(weight & activation)``."""
        counts = T.popcount(T.reinterpret("uint8x64", weight[0] & activation[0]))
        if self.accumulator == "uint32":
            return self.isa.add_quads(accumulator, counts)
        if self.accumulator == "uint16":
            return self.isa.add_byte_pairs(accumulator, counts)
        return self.isa.add_bytes(accumulator, counts)

    def widen(self, value: Expr, dtype: str, wide: str) -> Expr:
        """Counters of type `dtype` as counters of the type `wide`, neighbours added up."""
        while dtype != wide:
            value, dtype = self.isa.add_pairs(value, dtype), NEXT[dtype]
        return value


def counters(dtype: str) -> str:
    """The vector type of the counters of 16 channels."""
    return f"{dtype}x{LANES * 4 // {'uint8': 1, 'uint16': 2, 'uint32': 4}[dtype]}"
