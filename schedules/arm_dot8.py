"""8-bit products on ARM: which instruction a shape gets, its register tile, and what is corrected afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .arm_products import SHORT_RUN, Dot, Matrix, Widening
from .arm_runs import RunBuilder, run_words
from .neon import LANES, Neon
from .problem import ConvShape, Tile
from .words import Words

REGISTERS = 32
"""NEON registers."""

NEAR_BYTES = {False: 24 << 10, True: 48 << 10}
"""Weights of a tile that stay in the first-level cache, without and with dot products (32 and 64 kB caches)."""

LOAD_COST = {Dot: 2.9, Matrix: 1.4, Widening: 2.0}
"""Vector operations in the time of a load: on Neoverse N1, Neoverse V1 and Cortex-A72, by llvm-mca."""

LOOP_COST = 5.0
"""Vector operations in the time that a pass of the innermost loop loses at its ends."""

FAR_COST = 2.0
"""Vector operations in the time of a load of weights from the second-level cache."""


@dataclass(frozen=True, kw_only=True)
class Dot8(Words):
    """8-bit products by the best instruction that the processor has for the shape."""

    builder = RunBuilder
    isa: Neon
    accumulator: str = "int32"
    weight_dtype: str = "int32"
    cycles: float = 2.0

    def products(self, shape: ConvShape) -> Dot | Matrix | Widening:
        """How chunks are multiplied: USMMLA needs eight channels at once."""
        if self.isa.matrix and run_words(shape) % 2 == 0:
            return Matrix()
        return Dot(unsigned=self.isa.matrix) if self.isa.dot_product else Widening()

    def group(self, shape: ConvShape, blocks: int) -> int:
        """Most pixels whose accumulators stay in registers; a tile of more takes several passes."""
        return max([pixels for pixels in range(1, 9) if self._registers(shape, pixels, blocks) <= REGISTERS] or [1])

    def tiles(self, shape: ConvShape, pool: tuple[int, int], blocks: int | None) -> list[Tile]:
        """Register tiles, the best first by `_cost`.

        Args:
            shape: loop nest.
            pool: fused pooling window.
            blocks: vectors of channels, where they are given by packed weights.
        """
        window = pool[0] * pool[1]
        costs: dict[Tile, float] = {}
        for count in (1, 2, 4) if blocks is None else (blocks,):
            fits = self._registers(shape, window, count) <= REGISTERS
            if shape.blocks % count or not (fits or count in (1, blocks)):
                continue
            group = self.group(shape, count)
            for pixels in range(1, min(shape.tile_columns, max(1, group // window)) + 1):
                tile = Tile(pixels=pixels, blocks=count)
                costs[tile] = self._cost(shape, tile, min(group, pixels * window))
        return sorted(costs, key=costs.__getitem__)

    def _registers(self, shape: ConvShape, pixels: int, blocks: int) -> int:
        """Registers that a pass over `pixels` holds: accumulators, activations, weights, a constant.

        SMULL also holds products, which LLVM moves to the front, most of all for in-order processors; a short run is
        unrolled and holds some operands more.
        """
        products = self.products(shape)
        ahead = 4 if isinstance(products, Dot) and run_words(shape) < SHORT_RUN else 0
        held = {Dot: pixels, Matrix: 2 * -(-pixels // 2), Widening: 4 * pixels + 6 * blocks}[type(products)]
        return products.accumulators(pixels) * blocks + held + ahead + (3 if isinstance(products, Dot) else 2)

    def _cost(self, shape: ConvShape, tile: Tile, pixels: int) -> float:
        """Vector operations of a chunk for one pixel and vector, or the loads that take as long, of a pass."""
        products = self.products(shape)
        work = tile.blocks * pixels
        operations = {
            Dot: 16 * work + (0 if self.isa.matrix else pixels),
            Matrix: 16 * tile.blocks * -(-pixels // 2) + pixels,
            Widening: 48 * work + 5 * pixels,
        }[type(products)]
        loads = (16 * tile.blocks + pixels) * LOAD_COST[type(products)]
        taps = shape.kernel[0] * shape.kernel[1] * shape.words
        near = taps * tile.blocks * LANES * 4 <= NEAR_BYTES[self.isa.dot_product]
        stream = 0 if near else FAR_COST * 16 * tile.blocks
        columns = shape.tile_columns
        waste = -(-columns // tile.pixels) * tile.pixels / columns
        return (max(operations, loads, stream) + LOOP_COST) / work * waste

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Weights; for USMMLA the eight bytes of a channel side by side."""
        (packed,) = super().operands(words, shape, tile)
        if isinstance(self.products(shape), Matrix):
            pairs = packed.reshape(-1, 2, tile.blocks, LANES // 2, 2)
            packed = np.ascontiguousarray(pairs.transpose(0, 2, 3, 4, 1)).ravel()
        return (packed,)

    def surplus(self, words: npt.NDArray[Any], shape: ConvShape) -> npt.NDArray[np.int64]:
        """What the sums of each channel hold beyond the true ones: int64[O]."""
        values = np.ascontiguousarray(words).view(np.int8).reshape(*words.shape[:5], 4).astype(np.int64).sum(axis=-1)
        products = self.products(shape)
        if isinstance(products, Matrix) or (isinstance(products, Dot) and products.unsigned):
            taken = np.zeros(words.shape[2:5], np.int64)
        else:
            taken = np.full(words.shape[2:5], 128, np.int64)
        if isinstance(products, Widening):
            taken.reshape(-1, run_words(shape))[:, 1::2] = 127
        surplus: npt.NDArray[np.int64] = -(values[:, 0] * taken).sum(axis=(1, 2, 3))
        return surplus
