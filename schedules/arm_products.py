"""Instructions that multiply bytes on ARM, each with its layout of accumulators: exact for any weight and activation.

SDOT and SMULL multiply signed bytes, so activations lose 128 on the way in; what that subtracts from a sum is the same
for all pixels, because taps outside the image are multiplied like the others (`surplus` in arm_dot8.py). USDOT and
USMMLA take activations as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import tirx as T

from .arm_runs import Load
from .isa import Expr
from .neon import LANES

SHORT_RUN = 16
"""Words under which LLVM unrolls a run and mixes its chunks."""

SIGNED = (0x80808080, 0x80808080)
"""XORed to an even and an odd word, turns a into a - 128, as signed bytes."""

ALTERNATING = (0x80808080, 0x7F7F7F7F)
"""Turns a into a - 128 in even words and into 127 - a in odd ones."""


def chunk(source: Any, index: Expr, words: int, flip: tuple[int, int] | None) -> Expr:
    """`words` words of the input as an int32 vector, even and odd ones XORed by `flip`."""
    value = T.reinterpret(f"uint32x{words}" if words > 1 else "uint32", source[T.ramp(index, 1, 4 * words)])
    if flip:
        pattern = T.uint32(flip[0])
        if words > 1:
            pattern = T.Shuffle([T.uint32(flip[word % 2]) for word in range(words)], list(range(words)))
        value = T.bitwise_xor(value, pattern)
    return T.bind(T.reinterpret(f"int32x{words}" if words > 1 else "int32", value))


def splat(value: Expr, word: int, words: int) -> Expr:
    """A word of a chunk in all four lanes, as bytes."""
    return T.reinterpret("int8x16", T.broadcast(T.Shuffle([value], [word]) if words > 1 else value, 4))


def joined(parts: Sequence[Expr], indices: Sequence[int]) -> Expr:
    """int32x16 from lanes of registers."""
    return T.Shuffle(list(parts), list(indices))


@dataclass(frozen=True, kw_only=True)
class Dot:
    """SDOT or USDOT: four products for each of four channels, by one word of a pixel.

    Args:
        unsigned: USDOT.
    """

    unsigned: bool
    least_words: int = 1

    def most_words(self, run: int) -> int:  # noqa: ARG002
        """One register."""
        return 4

    def accumulators(self, pixels: int) -> int:
        """One lane for each channel."""
        return 4 * pixels

    def multiply(self, sums: Any, weights: Load, source: Any, indices: Sequence[Expr], blocks: int, words: int) -> None:
        """See `Products`."""
        name = f"llvm.aarch64.neon.{'us' if self.unsigned else 's'}dot.v4i32.v16i8"
        chunks = [chunk(source, index, words, None if self.unsigned else SIGNED) for index in indices]
        for word in range(words):
            for part in range(4 * blocks):
                weight = weights(word * 4 * blocks + part)
                for pixel, held in enumerate(chunks):
                    at = pixel * 4 * blocks + part
                    factor = splat(held, word, words)
                    factors = (factor, weight) if self.unsigned else (weight, factor)
                    T.buffer_store(sums, T.call_llvm_pure_intrin("int32x4", name, sums[at], *factors), [at])

    def total(self, sums: Any, pixel: int, n: int, blocks: int) -> Expr:
        """See `Products`."""
        first = pixel * 4 * blocks + 4 * n
        return joined([sums[first + part] for part in range(4)], range(LANES))


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """USMMLA: eight products for each of two pixels and two channels."""

    least_words: int = 2

    def most_words(self, run: int) -> int:  # noqa: ARG002
        """One register."""
        return 4

    def accumulators(self, pixels: int) -> int:
        """Two pixels and two channels to a register."""
        return 8 * (-(-pixels // 2))

    def multiply(self, sums: Any, weights: Load, source: Any, indices: Sequence[Expr], blocks: int, words: int) -> None:
        """See `Products`."""
        name = "llvm.aarch64.neon.usmmla.v4i32.v16i8"
        halves = [T.bind(T.reinterpret(f"int64x{words // 2}", chunk(source, index, words, None))) for index in indices]
        if words == 2:
            halves = [T.reinterpret("int64x1", half) for half in halves]
        halves += halves[-1:] * (len(halves) % 2)
        for step in range(words // 2):
            rows = [
                T.bind(T.reinterpret("int8x16", T.Shuffle([left, right], [step, words // 2 + step])))
                for left, right in zip(halves[::2], halves[1::2], strict=True)
            ]
            for part in range(8 * blocks):
                weight = weights(step * 8 * blocks + part)
                for pair, row in enumerate(rows):
                    at = pair * 8 * blocks + part
                    T.buffer_store(sums, T.call_llvm_pure_intrin("int32x4", name, sums[at], row, weight), [at])

    def total(self, sums: Any, pixel: int, n: int, blocks: int) -> Expr:
        """See `Products`."""
        first = (pixel // 2) * 8 * blocks + 8 * n
        lanes = [4 * part + 2 * (pixel % 2) + column for part in range(8) for column in range(2)]
        return joined([sums[first + part] for part in range(8)], lanes)


@dataclass(frozen=True, kw_only=True)
class Widening:
    """SMULL, SMLSL and SADALP: 16-bit products, for processors without dot-product instructions.

    The 16-bit difference of two products, one by a - 128 and one by 127 - a, never leaves -32640..32640, whatever the
    weights; their sum by a - 128 alone could reach 32768.
    """

    least_words: int = 1

    def most_words(self, run: int) -> int:
        """One register; in short runs half of one, or LLVM moves all products of the run to its front and spills."""
        return 4 if run >= SHORT_RUN else 2

    def accumulators(self, pixels: int) -> int:
        """Two lanes for each channel."""
        return 8 * pixels

    def multiply(self, sums: Any, weights: Load, source: Any, indices: Sequence[Expr], blocks: int, words: int) -> None:
        """See `Products`."""
        chunks = [chunk(source, index, words, ALTERNATING) for index in indices]
        for even in range(0, words, 2):
            for part in range(4 * blocks):
                pair = [weights((even + word) * 4 * blocks + part) for word in range(min(words, 2))]
                for pixel, held in enumerate(chunks):
                    factors = [splat(held, even + word, words) for word in range(min(words, 2))]
                    for half in range(2):
                        at = pixel * 8 * blocks + 2 * part + half
                        product = self._product(factors[0], pair[0], half)
                        if words > 1:
                            product = product - self._product(factors[1], pair[1], half)
                        wide = T.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", product)
                        T.buffer_store(sums, sums[at] + wide, [at])

    def _product(self, left: Expr, right: Expr, half: int) -> Expr:
        lanes = list(range(8 * half, 8 * half + 8))
        parts = [T.Shuffle([value], lanes) for value in (left, right)]
        return T.call_llvm_pure_intrin("int16x8", "llvm.aarch64.neon.smull.v8i16", *parts)

    def total(self, sums: Any, pixel: int, n: int, blocks: int) -> Expr:
        """See `Products`."""
        first = pixel * 8 * blocks + 8 * n
        name = "llvm.aarch64.neon.addp.v4i32"
        parts = [
            T.call_llvm_pure_intrin("int32x4", name, sums[first + 2 * part], sums[first + 2 * part + 1])
            for part in range(4)
        ]
        return joined(parts, range(LANES))
