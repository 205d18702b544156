"""Weights of AMX as bit planes: packed here, and made bytes of in the first-level cache.

A weight is the sum of its channel's integers, each with the sign that a bit gives: ``-(m_0 + m_1 + ..)``, and ``2 m_k``
more where bit k is set. A line of a tile, 16 channels by 4 bytes, takes a mask load (KMOVQ) for each plane, a choice of
two vectors (VPBLENDMB) for the first and a masked addition (VPADDB) for each other; sums modulo 256 are bytes again.
The vector units do it beside the products of tiles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from .isa import Expr, stack_buffer
from .x86_amx_tile import CHANNELS, FEWEST_STEPS, LINE_BYTES, Segments

WORD_BYTES = 8
"""Of a mask: a bit for each byte of a line."""

VECTOR_WORDS = LINE_BYTES // WORD_BYTES
"""Words of a vector of bytes."""

AHEAD = FEWEST_STEPS // 2
"""Steps from making bytes of weights to using them: stores take a while to be seen by loads of tiles."""

PREFETCH_STEPS = 8
"""How far ahead of its expansion a tile is asked for: some 500 cycles, longer than the third-level cache takes. The
processor follows such a stream too, but not from one page of 4 kB to the next."""


@dataclass(frozen=True, kw_only=True)
class PackedTiles:
    """Where packed weights lie: vectors of each tile of channels first, then the masks of tiles in the order of use.

    uint64[vectors, planes + 1, 8], the bytes ``-(m_0 + m_1 + ..)``, ``m_0 - (m_1 + ..)``, ``2 m_1``, .. of 16 channels,
    each four times; then uint64[groups of channels, steps, factors, blocks, lines, planes], bit ``4 * channel + byte``
    of a mask.

    Args:
        planes: of a weight.
        factors: weights of each input that are multiplied on their own.
        vectors: tiles of output channels.
        blocks: tiles of channels of a group.
        segments: input bytes of an output position.
    """

    planes: int
    factors: int
    vectors: int
    blocks: int
    segments: Segments

    @property
    def head(self) -> int:
        """Words before the first mask."""
        return self.vectors * (self.planes + 1) * VECTOR_WORDS

    @property
    def tile(self) -> int:
        """Words of the masks of a tile."""
        return self.segments.lines * self.planes

    @property
    def size(self) -> int:
        """Words."""
        return self.head + self.vectors * self.segments.steps * self.factors * self.tile

    @property
    def columns(self) -> int:
        """Tiles of weights of a step."""
        return self.factors * self.blocks

    def pack(self, tiles: npt.NDArray[np.int8], integers: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
        """Packs weights.

        Args:
            tiles: int8[groups of channels, steps, factors, blocks, lines, 16, 4]; lines that are zero in all channels
                become any weights (`expand` knows which they are).
            integers: int64[O, planes], of the channels that there are.

        Returns:
            uint64[size].
        """
        known = np.zeros((self.vectors * CHANNELS, self.planes), np.int64)
        known[: len(integers)] = integers
        least = -known.sum(axis=1, keepdims=True)
        steps = np.concatenate([least, least + 2 * known[:, :1], 2 * known[:, 1:]], axis=1).astype(np.uint8)
        head = np.repeat(steps.reshape(self.vectors, CHANNELS, -1).transpose(0, 2, 1), 4, axis=2)
        codes = np.arange(1 << self.planes)
        bits = codes[:, None] >> np.arange(self.planes) & 1
        levels = known @ (2 * bits - 1).T
        code_of = np.zeros((len(known), 256), np.uint8)
        code_of[np.arange(len(known))[:, None], levels & 255] = codes
        channel = np.arange(len(known)).reshape(-1, 1, 1, self.blocks, 1, CHANNELS, 1)
        found = code_of[channel, tiles.view(np.uint8)]
        masks = [np.packbits((found >> plane & 1).reshape(*found.shape[:5], -1), axis=-1, bitorder="little")
                 for plane in range(self.planes)]  # fmt: skip
        return np.concatenate(
            [np.ascontiguousarray(part).ravel().view(np.uint64) for part in (head, np.stack(masks, -2))]
        )

    def expand(self, weights: Any, group: Expr, step: Expr, into: Any, at: Expr) -> None:
        """Makes bytes of the tiles of one step.

        Args:
            weights: buffer of packed words.
            group: of channels.
            step: of the group.
            into: int8 buffer.
            at: where the tiles go, [factors, blocks, lines, 16 channels, 4].
        """
        segments, planes = self.segments, self.planes
        first = T.bind((group * segments.steps + step) * self.columns)
        with T.serial(0, self.columns) as column:
            vector = T.bind((group * self.blocks + column % self.blocks) * (planes + 1))
            least, chosen, *added = (T.bind(_bytes(weights, (vector + k) * VECTOR_WORDS)) for k in range(planes + 1))
            masks = T.bind(self.head + (first + column) * self.tile)
            for word in range(0, self.tile, VECTOR_WORDS):
                _prefetch(weights, masks + self.columns * PREFETCH_STEPS * self.tile + word)
            tile = T.bind(at + column * segments.lines * LINE_BYTES)
            with T.serial(0, segments.lines) as line:
                value = T.bind(T.Select(_mask(weights, masks + line * planes), chosen, least))
                for k, more in enumerate(added, 1):
                    value = T.bind(T.Select(_mask(weights, masks + line * planes + k), value + more, value))
                T.buffer_store(into, value, [T.ramp(tile + line * LINE_BYTES, 1, LINE_BYTES)])
            if segments.repeated_lines:
                with T.If(segments.place(step)[2] == segments.parts - 1), T.Then():
                    for line in range(segments.repeated_lines):
                        zeros = T.broadcast(T.int8(0), LINE_BYTES)
                        T.buffer_store(into, zeros, [T.ramp(tile + line * LINE_BYTES, 1, LINE_BYTES)])


class Slots:
    """Bytes of the weights of a task, on its stack: of all steps, for what follows on the same channels, or of a few.

    Args:
        packed: layout of the weights.
        weights: buffer of packed words.
        groups: of tiles on the same channels.
        passes: of a group over the input.
        first: group of the task.
        count: groups of the task.
    """

    def __init__(
        self, packed: PackedTiles, weights: Any, *, groups: int, passes: int, first: Expr, count: Expr
    ) -> None:
        self.packed, self.weights, self.groups, self.first, self.count = packed, weights, groups, first, count
        self.passes, self.steps = passes, packed.segments.steps
        self.size = packed.columns * packed.segments.lines * LINE_BYTES
        self.all = groups * passes > 1
        self.buffer = stack_buffer((self.steps if self.all else FEWEST_STEPS) * self.size, "int8")

    def at(self, turn: Expr, step: Expr) -> Expr:
        """Where the bytes of a step of the group number `turn` of the task start."""
        slot = step if self.all else (turn * self.steps + step) % FEWEST_STEPS
        return T.bind(slot * self.size)

    def start(self) -> None:
        """Makes bytes of the first steps."""
        with T.serial(0, AHEAD) as step:
            self._expand(T.int32(0), step)

    def ahead(self, turn: Expr, order: int, step: Expr) -> None:
        """Makes bytes of the weights that are used some steps later, where no group of the task has done so.

        The first pass makes those of its own group, the last one those that the next group starts with.
        """
        later = T.bind(step + AHEAD)
        here = later < self.steps
        turn = T.bind(T.if_then_else(here, turn, turn + 1))
        fresh = [turn < self.count]
        if self.groups > 1:
            fresh.append(tirx.any(turn == 0, (self.first + turn) % self.groups == 0))
        if order > 0:
            fresh.append(tirx.Not(here))
        elif self.passes > 1:
            fresh.append(here)
        if order in (0, self.passes - 1):
            with T.If(tirx.all(*fresh)), T.Then():
                self._expand(turn, T.bind(T.if_then_else(here, later, later - self.steps)))

    def _expand(self, turn: Expr, step: Expr) -> None:
        channels = T.bind((self.first + turn) // self.groups)
        self.packed.expand(self.weights, channels, step, self.buffer, self.at(turn, step))


def _mask(weights: Any, at: Expr) -> Expr:
    """The bits of a word as conditions; TVM's own check of sizes takes a condition for a byte (0.27)."""
    return T.call_intrin(f"boolx{LINE_BYTES}", "tirx.reinterpret", weights[at])


def _bytes(weights: Any, at: Expr) -> Expr:
    """A vector of bytes from eight words."""
    return T.reinterpret(f"int8x{LINE_BYTES}", weights[T.ramp(at, 1, VECTOR_WORDS)])


def _prefetch(weights: Any, at: Expr) -> None:
    """Asks for the line of the cache with the word `at`, to be read; it may lie behind the end."""
    read, nearest, data = 0, 3, 1
    T.evaluate(T.call_intrin("void", "tirx.prefetch", T.address_of(weights[at]), read, nearest, data))
