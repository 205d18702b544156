"""The loop nest of 8-bit products on ARM: activations are loaded 16 bytes at a time.

A *run* is what a row of the kernel multiplies, where it lies in one piece in the input, or one tap, where it does not.
A run is read in chunks of four, two and one words. How a chunk is multiplied is a `Products`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from tvm.script.ir_builder import tirx as T

from .isa import Expr, zeros
from .neon import LANES
from .problem import ConvShape, Problem
from .row_tiles import RowTileBuilder

Load = Callable[[int], Expr]
"""The weight register (int8x16) at a position that counts registers from the first word of a chunk."""


class Products(Protocol):
    """How chunks of activations are multiplied with weights.

    Weights of 16 channels and one word fill four registers.
    """

    @property
    def least_words(self) -> int:
        """Words of the smallest chunk."""

    def most_words(self, run: int) -> int:
        """Words of the largest chunk, for runs of `run` words."""

    def accumulators(self, pixels: int) -> int:
        """Registers (int32x4) that `pixels` outputs of 16 channels take."""

    def multiply(self, sums: Any, weights: Load, source: Any, indices: Sequence[Expr], blocks: int, words: int) -> None:
        """Adds the products of `words` words.

        Args:
            sums: accumulators.
            weights: of these words.
            source: input buffer, uint8.
            indices: element of the input for each pixel.
            blocks: vectors of 16 channels.
            words: 4, 2 or 1.
        """

    def total(self, sums: Any, pixel: int, n: int, blocks: int) -> Expr:
        """int32x16: sums of one pixel and vector."""


def run_words(shape: ConvShape) -> int:
    """Words of a run."""
    whole = shape.words * 4 == shape.source.pixel and shape.dilations[1] == 1
    return shape.kernel[1] * shape.words if whole else shape.words


class RunBuilder(RowTileBuilder):
    """A contraction whose taps are multiplied run by run, as the family's `products` do.

    A tile of more pixels than the family's `group` makes several passes.
    """

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        self.products: Products = family.products(self.shape)
        passes = -(-self.pixels // family.group(self.shape, self.tile.blocks))
        self.group = -(-self.pixels // passes)

    def accumulate(self, block: Expr, bases: Sequence[Expr]) -> Any:
        """Sums of each group of pixels."""
        return [self._pass(block, bases[start : start + self.group]) for start in range(0, len(bases), self.group)]

    def total(self, totals: Any, i: int, j: int, m: int, n: Expr) -> Expr:  # noqa: ARG002
        """The sums of pixel m and vector n."""
        return self.products.total(totals[m // self.group], m % self.group, n, self.tile.blocks)

    def _pass(self, block: Expr, bases: Sequence[Expr]) -> Any:
        shape, blocks = self.shape, self.tile.blocks
        rows = shape.kernel[0]
        run = run_words(shape)
        runs = shape.kernel[1] * shape.words // run
        pixel, width = shape.source.pixel, shape.source.padded_width
        sums = zeros(self.products.accumulators(len(bases)) * blocks, "int32x4")

        def step(first: Expr, offset: Expr, words: int) -> None:
            def weights(register: int) -> Expr:
                at = (first * blocks * LANES) + register * 4
                return T.bind(T.reinterpret("int8x16", self.weights[T.ramp(at, 1, 4)]))

            self.products.multiply(sums, weights, self.source, [base + offset for base in bases], blocks, words)

        with T.serial(0, rows) as r, T.serial(0, runs) as c:
            offset = T.bind((r * shape.dilations[0] * width + c * shape.dilations[1]) * pixel)
            first = T.bind(((block * rows + r) * runs + c) * run)
            done = 0
            words = self.products.most_words(run)
            while words >= self.products.least_words:
                count = (run - done) // words
                if count:
                    with T.serial(0, count) as k:
                        step(first + done + k * words, offset + (done + k * words) * 4, words)
                done += count * words
                words //= 2
        return sums
