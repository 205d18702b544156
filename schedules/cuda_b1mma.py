"""The contraction on binary tensor cores: ``mma.m16n8k256`` of one-bit factors, AND and population count.

A thread block computes a tile of pixels by output channels for all pairs of planes, as an implicit matrix product:
rows are pixels, columns are channels, and the depth is the words of all taps, 256 bits to a step. Codes of the tile's
pixels and weights stream through shared memory (``cp.async``, several steps ahead), from where ``ldmatrix`` takes the
fragments of a warp. Sums are combined in registers and pass through shared memory once more, to the epilogue of warps.

Layouts of fragments: PTX ISA, "Matrix Fragments for mma.m16n8k256".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .combine import combine
from .cuda_contraction import Spot, WarpContraction, WarpWords
from .cuda_device import device_call
from .cuda_warp import COLUMN, CTA, LANE, LANES, SAMPLES, WARP, Warp, div, fill_halo, launch, locals_of, mod
from .epilogue import Epilogue
from .isa import Expr
from .problem import ConvShape, SumRule, Tile

ROWS, COLUMNS, WORDS = 16, 8, 8
"""Of one instruction: pixels, channels, and words of 32 bits."""

STEP_BYTES = 4 * WORDS
"""Of a pixel or a channel in one step of the depth."""

HALF = 16
"""Bytes that a row of ``ldmatrix`` has."""

WARP_ROWS, WARP_COLUMNS, WARPS = 2, 2, 4
"""Warps of a block, as rows and columns of its tile."""

STAGES = 4
"""Steps that shared memory holds."""

SHARED_BYTES = 48 << 10
"""Static shared memory of a block."""

ACCUMULATORS = 128
"""Registers of a thread for sums."""


@dataclass(frozen=True, kw_only=True)
class Fragments(Warp):
    """Vector operations where each thread holds a channel of its own choice: indices are complete."""

    def load(self, buffer: Expr, index: Expr) -> Expr:
        """One element."""
        return buffer[index]


class TensorContraction(WarpContraction):
    """Emits the tile of a thread block."""

    def __init__(self, isa: Any, family: Any, shape: ConvShape, tile: Tile, rule: SumRule, epilogue: Epilogue) -> None:
        super().__init__(isa, family, shape, tile, rule, epilogue)
        self.height, self.width = tile.pixels, tile.blocks * LANES
        self.pixels = self.height // self.window
        self.depth = shape.kernel[0] * shape.kernel[1] * shape.words
        self.steps = -(-self.depth // WORDS)
        self.act_bytes = self.height * rule.act_planes * STEP_BYTES
        self.stage_bytes = self.act_bytes + self.width * shape.weight_planes * STEP_BYTES
        self.stages = max(2, min(STAGES, SHARED_BYTES * 3 // 4 // self.stage_bytes))
        self.fragment_rows = self.height // (WARP_ROWS * ROWS)
        self.fragment_columns = self.width // (WARP_COLUMNS * COLUMNS)
        self.kind = "int32" if epilogue.mode in ("integer", "sums") else "float64"

    def weight_size(self) -> int:
        """Words of the packed weights."""
        return self.steps * WORDS * self.shape.weight_planes * self.channels

    def build(self) -> Any:
        """The PrimFunc; parameters as of any contraction."""
        values = self.height * self.width * (4 if self.kind == "int32" else 8)
        size = max(self.stages * self.stage_bytes, 0 if self.epilogue.mode == "sums" else values)
        with IRBuilder() as builder, T.prim_func():
            T.func_name("contraction")
            self.arguments()
            with launch(self.rows, self.pixels, self.channels // self.width, WARPS) as grid:
                for item, output in zip(self.epilogue.stores, self.outputs, strict=False):
                    fill_halo(output, item.format, grid)
                self.shared = T.alloc_buffer((size,), "uint8", scope="shared")
                self.counts = T.alloc_buffer((self.rule.act_planes * self.height,), "int32", scope="shared")
                sums = self.main_loop()
                if self.rule.bipolar and self.rule.mask_plane < 0:
                    self.count_rows()
                T.evaluate(T.tvm_storage_sync("shared"))
                if self.epilogue.mode == "sums":
                    self.each_sum(sums, self.store_pairs)
                else:
                    self.through_shared(sums)
        return builder.get()

    def spot(self, row: Expr) -> Spot:
        """What row number `row` of the tile computes; rows behind the last one repeat it."""
        pixel = T.min(CTA * self.pixels + T.min(div(row, self.window), self.pixels - 1), SAMPLES * self.rows - 1)
        sample, rest = div(pixel, self.rows), mod(pixel, self.rows)
        position = mod(row, self.window)
        rows, columns = self.shape.pool
        return Spot(
            sample=T.bind(sample),
            y=T.bind(div(rest, self.shape.tile_columns) * rows + div(position, columns)),
            x=T.bind(mod(rest, self.shape.tile_columns) * columns + mod(position, columns)),
        )

    def main_loop(self) -> Any:
        """Sums of the block's tile, each thread its fragments."""
        pairs = self.shape.weight_planes * self.rule.act_planes
        sums = locals_of(pairs * self.fragment_rows * self.fragment_columns * 4, "int32", 0)
        copy = self.copier()
        for stage in range(self.stages - 1):
            if stage < self.steps:
                copy(T.int32(stage), T.int32(stage))
            T.evaluate(device_call("lq_commit", dtype="void"))
        with T.serial(0, self.steps) as step:
            T.evaluate(device_call(f"lq_wait{self.stages - 2}", dtype="void"))
            T.evaluate(T.tvm_storage_sync("shared"))
            ahead = T.bind(step + (self.stages - 1))
            with T.If(ahead < self.steps), T.Then():
                copy(ahead, T.bind(mod(ahead, self.stages)))
            T.evaluate(device_call("lq_commit", dtype="void"))
            self.multiply(sums, T.bind(mod(step, self.stages) * self.stage_bytes))
        T.evaluate(device_call("lq_wait0", dtype="void"))
        T.evaluate(T.tvm_storage_sync("shared"))
        return sums

    def copier(self) -> Any:
        """A function that starts copying one step of the depth to a stage of shared memory."""
        words = next(size for size in (4, 2, 1) if self.shape.words % size == 0)
        planes, parts = self.rule.act_planes, WORDS // words
        thread = T.bind(WARP * LANES + LANE)
        total, threads = self.height * planes * parts, WARPS * LANES
        copies = []
        for first in range(0, total, threads):
            piece = T.bind(T.min(first + thread, total - 1))
            row, part = T.bind(div(piece, planes * parts)), T.bind(mod(piece, parts))
            plane = mod(div(piece, parts), planes)
            source = T.bind(self.base(self.spot(row), COLUMN) + plane * self.plane())
            half = div(part * words * 4, HALF)
            place = (plane * self.height + row) * STEP_BYTES + self.swizzled(half, row) * HALF
            copies.append((part, source, T.bind(place + mod(part * words * 4, HALF))))
        weight_bytes = self.stage_bytes - self.act_bytes

        def copy(step: Expr, stage: Expr) -> None:
            start = T.bind(stage * self.stage_bytes)
            for part, source, place in copies:
                # Weights are zero behind the last word: any word will do there.
                word = T.bind(T.min(step * WORDS + part * words, self.depth - words))
                tap, k = T.bind(div(word, self.shape.words)), mod(word, self.shape.words)
                offset = self.tap(div(tap, self.shape.kernel[1]), mod(tap, self.shape.kernel[1])) + k * 4
                self.copy(words * 4, self.shared[start + place], self.source[source + offset])
            first = T.bind((COLUMN * self.steps + step) * (weight_bytes // 4))
            for begin in range(0, weight_bytes // HALF, threads):
                piece = T.bind(T.min(begin + thread, weight_bytes // HALF - 1))
                target = self.shared[start + self.act_bytes + piece * HALF]
                self.copy(HALF, target, self.weights[first + piece * 4])

        return copy

    def copy(self, size: int, target: Expr, source: Expr) -> None:
        """Starts one asynchronous copy."""
        T.evaluate(device_call(f"lq_copy{size}", T.address_of(target), T.address_of(source), dtype="void"))

    def swizzled(self, half: Expr, row: Expr) -> Expr:
        """Where a half of a row lies: swapped in every other four rows, so that eight rows meet in no bank."""
        return T.bitwise_xor(half, mod(div(row, 4), 2))

    def fragment(self, name: str, held: Any, at: int, first: Expr, plane_start: Expr, rows: int) -> None:
        """Loads 16 or 8 rows of a step from shared memory; thread l gives the address of row l % 8 of matrix l / 8."""
        row = first + (mod(LANE, 8) + mod(div(LANE, 8), 2) * 8 if rows == ROWS else mod(LANE, 8))
        half = div(LANE, 16) if rows == ROWS else mod(div(LANE, 8), 2)
        row = T.bind(row)
        place = plane_start + row * STEP_BYTES + self.swizzled(half, row) * HALF
        T.evaluate(device_call(name, T.address_of(held[at]), T.address_of(self.shared[place]), dtype="void"))

    def multiply(self, sums: Any, stage: Expr) -> None:
        """One step of the depth: all pairs of planes, fragment by fragment."""
        rows, columns = self.fragment_rows, self.fragment_columns
        planes = self.shape.weight_planes
        acts, weights = locals_of(4 * rows, "uint32"), locals_of(2 * columns * planes, "uint32")
        first_row = T.bind(div(WARP, WARP_COLUMNS) * (rows * ROWS))
        first_column = T.bind(mod(WARP, WARP_COLUMNS) * (columns * COLUMNS))
        for i in range(planes):
            start = T.bind(stage + (self.act_bytes + i * self.width * STEP_BYTES))
            for n in range(columns):
                at = (i * columns + n) * 2
                self.fragment("lq_fragment2", weights, at, first_column + n * COLUMNS, start, COLUMNS)
        for j in range(self.rule.act_planes):
            start = T.bind(stage + j * self.height * STEP_BYTES)
            for m in range(rows):
                self.fragment("lq_fragment4", acts, 4 * m, first_row + m * ROWS, start, ROWS)
            for i in range(planes):
                for m in range(rows):
                    for n in range(columns):
                        operands = (sums[self.place(i, j, m, n)], acts[4 * m], weights[(i * columns + n) * 2])
                        addresses = [T.address_of(operand) for operand in operands]
                        T.evaluate(device_call("lq_b1mma", *addresses, dtype="void"))

    def place(self, i: int, j: int, m: int, n: int) -> int:
        """First accumulator of a fragment of a pair of planes."""
        return (((i * self.rule.act_planes + j) * self.fragment_rows + m) * self.fragment_columns + n) * 4

    def count_rows(self) -> None:
        """Ones in each plane of each row's window, into shared memory: warps take rows in turn."""
        with T.serial(0, self.height // WARPS) as turn:
            row = T.bind(turn * WARPS + WARP)
            held = self.count([T.bind(self.base(self.spot(row), COLUMN))])
            for j in range(self.rule.act_planes):
                T.buffer_store(self.counts, held[j], [j * self.height + row])

    def each_sum(self, sums: Any, body: Any) -> None:
        """Calls ``body(row, column, sum_of)`` for every output that a thread holds."""
        first_row = T.bind(div(WARP, WARP_COLUMNS) * (self.fragment_rows * ROWS) + div(LANE, 4))
        first_column = T.bind(mod(WARP, WARP_COLUMNS) * (self.fragment_columns * COLUMNS) + mod(LANE, 4) * 2)
        for m in range(self.fragment_rows):
            for part in range(2):
                row = T.bind(first_row + (m * ROWS + part * 8))
                for n in range(self.fragment_columns):
                    for side in range(2):
                        held = part * 2 + side

                        def sum_of(i: int, j: int, m: int = m, n: int = n, held: int = held, row: Expr = row) -> Expr:
                            value = sums[self.place(i, j, m, n) + held]
                            if not self.rule.bipolar:
                                return value
                            if self.rule.mask_plane < 0:
                                return value + value - self.counts[j * self.height + row]
                            return value + value - sums[self.place(self.rule.mask_plane, j, m, n) + held]

                        body(row, T.bind(first_column + (n * COLUMNS + side)), sum_of)

    def store_pairs(self, row: Expr, column: Expr, sum_of: Any) -> None:
        """The integers themselves, of one sample."""
        spot, shape, rule = self.spot(row), self.shape, self.rule
        for i in range(rule.weight_basis):
            for j in range(rule.act_planes):
                line = (i * rule.act_planes + j) * shape.out_height + spot.y
                at = (line * shape.out_width + spot.x) * self.channels + COLUMN * self.width + column
                T.buffer_store(self.outputs[0], sum_of(i, j), [at])

    def through_shared(self, sums: Any) -> None:
        """Values of the tile through shared memory to the epilogue: a warp a pixel and 32 channels."""
        size = self.height * self.width
        tile = T.decl_buffer((size,), self.kind, data=self.shared.data, scope="shared")
        fragments = Fragments()

        def put(row: Expr, column: Expr, sum_of: Any) -> None:
            channel = T.bind(COLUMN * self.width + column)
            value = combine(fragments, self.rule, self.epilogue, self.basis, self.channels, channel, sum_of)
            T.buffer_store(tile, value, [row * self.width + column])

        self.each_sum(sums, put)
        T.evaluate(T.tvm_storage_sync("shared"))
        vectors = self.pixels * self.tile.blocks
        with T.serial(0, -(-vectors // WARPS)) as turn:
            vector = T.bind(T.min(turn * WARPS + WARP, vectors - 1))
            pixel, n = T.bind(div(vector, self.tile.blocks)), T.bind(mod(vector, self.tile.blocks))
            pooled: Expr = None
            for position in range(self.window):
                value = tile[(pixel * self.window + position) * self.width + n * LANES + LANE]
                pooled = T.bind(value if pooled is None else T.max(pooled, value))
            spot = self.spot(pixel * self.window)
            self.emitter.sample = spot.sample
            y, x = T.bind(div(spot.y, self.shape.pool[0])), T.bind(div(spot.x, self.shape.pool[1]))
            self.emitter.emit(pooled, y, x, T.bind(COLUMN * self.tile.blocks + n))


@dataclass(frozen=True, kw_only=True)
class B1Mma(WarpWords):
    """AND and population count of 16 x 8 x 256 bits an instruction."""

    builder = TensorContraction
    accumulator: str = "int32"
    weight_dtype: str = "uint32"
    cycles: float = 1.0

    @property
    def windowed(self) -> bool:
        """Grouped convolutions are dense ones, with structural zeros and a mask."""
        return False

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Words [O, P, kh, kw, W, 1] as shared memory holds them: [tiles, steps, P, channels of a tile, 8], flat."""
        outputs, planes = words.shape[:2]
        width = tile.blocks * LANES
        flat = words.reshape(outputs, planes, -1)
        steps = -(-flat.shape[2] // WORDS)
        padded = np.zeros((shape.blocks * LANES, planes, steps * WORDS), np.uint32)
        padded[:outputs, :, : flat.shape[2]] = flat
        tiles = padded.reshape(-1, width, planes, steps, 2, WORDS // 2).transpose(0, 3, 2, 1, 4, 5)
        swapped = (np.arange(width) // 4 % 2).astype(bool).reshape(-1, 1, 1)
        return (np.where(swapped, tiles[..., ::-1, :], tiles).ravel(),)


def tensor_tile(shape: ConvShape, rule: SumRule, blocks: int | None) -> Tile:
    """The tile of a thread block: as large as its accumulators allow, and no wider than the channels divide.

    Raises:
        ValueError: there are more pairs of planes than `lqcompile.lowering.tensor_cores.fits` lets pass.
    """
    pairs = shape.weight_planes * rule.act_planes
    options = [(64, 2), (32, 2), (64, 1), (32, 1)]  # rows, and blocks of 32 channels
    for rows, count in options:
        registers = pairs * rows * count * LANES // (WARPS * LANES)
        wanted = shape.blocks % count == 0 if blocks is None else count == blocks
        if wanted and registers <= ACCUMULATORS:
            return Tile(pixels=rows, blocks=count)
    raise ValueError(f"found {pairs} pairs of planes, expected as many as {ACCUMULATORS} registers hold the sums of")
