"""The contraction on tensor cores: an implicit matrix product by `mma.sync`, of bits or of bytes.

Rows are pixels of all samples, columns are output channels, and the depth is the words of all taps. Chunks of it stream
through shared memory (``cp.async``, several ahead), from where ``ldmatrix`` takes the fragments of a warp. Sums are
combined in registers and pass through shared memory once more, to the epilogue of warps.

One slice of 16 x 8 x 32 bytes is an instruction: ``mma.m16n8k256`` of bits and ``mma.m16n8k32`` of bytes have the same
fragments (PTX ISA, "Matrix Fragments for mma.m16n8k256" and "... mma.m16n8k32").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .cuda_device import device_call
from .cuda_tensor_sums import TensorSums
from .cuda_tensor_tile import COLUMNS, ROWS, WORDS, fewer_tile
from .cuda_warp import COLUMN, LANE, LANES, WARP, Warp, div, launch, locals_of, mod
from .cuda_words import WarpWords
from .isa import Expr
from .problem import ConvShape, SumRule, Tile

HALF = 16
"""Bytes that a row of ``ldmatrix`` has: half of a slice."""


class TensorContraction(TensorSums):
    """Emits the tile of a thread block.

    Attributes:
        alignment: of its shared memory, in bytes.
    """

    alignment = 64

    def weight_size(self) -> int:
        """Words of the packed weights."""
        return self.block.chunks * self.block.chunk_words * self.shape.weight_planes * self.channels

    def build(self) -> Any:
        """The PrimFunc; parameters as of any contraction."""
        block = self.block
        with IRBuilder() as builder, T.prim_func():
            T.func_name("contraction")
            self.arguments()
            with launch(self.rows, self.pixels, self.channels // self.width, block.warps) as grid:
                self.halos(grid)
                self.group, self.warp = T.bind(div(WARP, block.group)), T.bind(mod(WARP, block.group))
                self.shared = T.alloc_buffer((self.shared_bytes(),), "uint8", scope="shared", align=self.alignment)
                if self.counted:
                    counts = (self.rule.act_planes * self.height,)
                    self.counts = T.alloc_buffer(counts, "int32", scope="shared")
                sums = self.main_loop()
                if self.counted:
                    self.count_rows()
                if self.tile.split > 1:
                    self.add_groups(sums)
                T.evaluate(T.tvm_storage_sync("shared"))
                if self.epilogue.mode == "sums":
                    self.each_sum(sums, range(block.fragments[0]), self.store_pairs)
                else:
                    self.through_shared(sums)
        return builder.get()

    def shared_bytes(self) -> int:
        """Shared memory for the chunks, later for sums of groups and for values."""
        block = self.block
        stages = self.tile.split * block.stages * block.stage_bytes
        added = (self.tile.split - 1) * self.height * self.width * 4
        values = 0 if self.epilogue.mode == "sums" else self.taken_rows() * block.grid[0] * self.value_row()
        return max(stages, added, values)

    def main_loop(self) -> Any:
        """Sums of the block's tile, each thread its fragments; of the chunks of its group, where the tile is split."""
        block = self.block
        rows, columns = block.fragments
        sums = locals_of(block.pairs * rows * columns * 4, "int32", 0)
        copy = self.copier()
        first = T.bind(self.group * (block.stages * block.stage_bytes))
        for stage in range(block.stages - 1):
            if stage < block.steps:
                copy(T.int32(stage), T.bind(first + stage * block.stage_bytes))
            T.evaluate(device_call("lq_commit", dtype="void"))
        with T.serial(0, block.steps) as step:
            self.wait(block.stages - 2)
            ahead = T.bind(step + (block.stages - 1))
            with T.If(ahead < block.steps), T.Then():
                copy(ahead, T.bind(first + mod(ahead, block.stages) * block.stage_bytes))
            T.evaluate(device_call("lq_commit", dtype="void"))
            start = T.bind(first + mod(step, block.stages) * block.stage_bytes)
            if block.chunks % self.tile.split:
                with T.If(self.chunk(step) < block.chunks), T.Then():
                    self.multiply(sums, start)
            else:
                self.multiply(sums, start)
        self.wait(0)
        return sums

    def wait(self, left: int) -> None:
        """Waits until all warps have all of their copies but the last `left` groups."""
        T.evaluate(device_call(f"lq_wait{left}", dtype="void"))
        T.evaluate(T.tvm_storage_sync("shared"))

    def chunk(self, step: Expr) -> Expr:
        """Number of the chunk that the thread's group takes in a step."""
        return step * self.tile.split + self.group

    def copier(self) -> Any:
        """A function that starts copying the group's chunk of a step to a stage of shared memory."""
        thread = T.bind(self.warp * LANES + LANE)
        copy_codes, copy_weights = self.code_copier(thread), self.weight_copier(thread)

        def copy(step: Expr, start: Expr) -> None:
            # Groups behind the last chunk repeat it, and multiply nothing.
            chunk = T.bind(T.min(self.chunk(step), self.block.chunks - 1))
            copy_codes(chunk, start)
            copy_weights(chunk, start)

        return copy

    def code_copier(self, thread: Expr) -> Any:
        """Copies codes of the tile's pixels, as many words at a time as no tap ends within."""
        block, planes = self.block, self.rule.act_planes
        words = next(size for size in (4, 2, 1) if self.shape.words % size == 0)
        parts, threads = block.chunk_words // words, block.group * LANES
        part, line = T.bind(mod(thread, parts)), T.bind(div(thread, parts))
        places = []
        for first in range(0, self.height * planes, threads // parts):
            piece = T.bind(T.min(first + line, self.height * planes - 1))
            row, plane = T.bind(div(piece, planes)), mod(piece, planes)
            source = T.bind(self.base(self.spot(row), COLUMN) + plane * self.plane())
            place = self.place_of(plane * self.height + row, div(part * words * 4, HALF))
            places.append((source, T.bind(place + mod(part * words * 4, HALF))))

        def copy(chunk: Expr, start: Expr) -> None:
            # Weights are zero behind the last word: any word will do there.
            word = T.bind(T.min(chunk * block.chunk_words + part * words, block.depth - words))
            tap, k = T.bind(div(word, self.shape.words)), mod(word, self.shape.words)
            offset = T.bind(self.tap(div(tap, self.shape.kernel[1]), mod(tap, self.shape.kernel[1])) + k * 4)
            for source, place in places:
                self.copy(words * 4, self.shared[start + place], self.source[source + offset])

        return copy

    def weight_copier(self, thread: Expr) -> Any:
        """Copies weights of the tile's channels; those of 32 channels lie in one piece."""
        block, planes = self.block, self.shape.weight_planes
        halves, threads = block.row_bytes // HALF, block.group * LANES
        pieces = planes * LANES * halves
        sources, places = [], []
        for first in range(0, self.tile.blocks * pieces, threads):
            piece = T.bind(T.min(first + thread, self.tile.blocks * pieces - 1))
            n, inner = T.bind(div(piece, pieces)), T.bind(mod(piece, pieces))
            sources.append(T.bind(((COLUMN * self.tile.blocks + n) * (block.chunks * pieces) + inner) * 4))
            plane, row = div(inner, LANES * halves), mod(div(inner, halves), LANES)
            place = self.place_of(plane * self.width + n * LANES + row, mod(inner, halves))
            places.append(T.bind(block.act_bytes + place))

        def copy(chunk: Expr, start: Expr) -> None:
            offset = T.bind(chunk * (pieces * 4))
            for source, place in zip(sources, places, strict=True):
                self.copy(HALF, self.shared[start + place], self.weights[source + offset])

        return copy

    def copy(self, size: int, target: Expr, source: Expr) -> None:
        """Starts one asynchronous copy."""
        T.evaluate(device_call(f"lq_copy{size}", T.address_of(target), T.address_of(source), dtype="void"))

    def place_of(self, row: Expr, half: Expr) -> Expr:
        """Where a half of a slice lies in a chunk: moved within its row, so that eight rows meet in no bank."""
        halves = min(self.block.row_bytes // HALF, 8)
        moved = T.bitwise_xor(half, mod(div(row, 8 // halves), halves))
        return row * self.block.row_bytes + moved * HALF

    def multiply(self, sums: Any, start: Expr) -> None:
        """One chunk of the depth: all pairs of planes, slice by slice."""
        rows, columns = self.block.fragments
        planes = self.shape.weight_planes
        acts, weights = locals_of(4 * rows, "uint32"), locals_of(2 * columns * planes, "uint32")
        first_row = T.bind(div(self.warp, self.block.grid[1]) * (rows * ROWS))
        first_column = T.bind(mod(self.warp, self.block.grid[1]) * (columns * COLUMNS))
        # Of the four matrices that ldmatrix takes, thread l gives the address of row l % 8 of number l / 8.
        second, fourth = T.bind(mod(div(LANE, 8), 2)), T.bind(div(LANE, 16))
        with T.unroll(0, self.tile.unroll) as part:
            for i in range(planes):
                for n in range(0, columns, 2):
                    row = first_column + (i * self.width + n * COLUMNS) + fourth * 8 + mod(LANE, 8)
                    place = start + self.block.act_bytes + self.place_of(T.bind(row), part * 2 + second)
                    self.fragment(weights[(i * columns + n) * 2], place)
            for j in range(self.rule.act_planes):
                for m in range(rows):
                    row = first_row + (j * self.height + m * ROWS) + second * 8 + mod(LANE, 8)
                    self.fragment(acts[4 * m], start + self.place_of(T.bind(row), part * 2 + fourth))
                for i in range(planes):
                    for m in range(rows):
                        for n in range(columns):
                            operands = (sums[self.place(i, j, m, n)], acts[4 * m], weights[(i * columns + n) * 2])
                            addresses = [T.address_of(operand) for operand in operands]
                            T.evaluate(device_call(self.family.instruction, *addresses, dtype="void"))

    def fragment(self, held: Expr, place: Expr) -> None:
        """Loads four matrices of eight rows from shared memory."""
        T.evaluate(device_call("lq_fragment4", T.address_of(held), T.address_of(self.shared[place]), dtype="void"))


@dataclass(frozen=True, kw_only=True)
class TensorWords(WarpWords):
    """What the families on tensor cores have in common.

    Args:
        instruction: the device function that multiplies fragments.
    """

    builder = TensorContraction
    isa: Warp
    accumulator: str = "int32"
    cycles: float = 1.0
    instruction: str

    def fewer(self, shape: ConvShape, rule: SumRule, tile: Any) -> tuple[Tile, int] | None:
        """The tile for launches of few samples, see `fewer_tile`."""
        return fewer_tile(shape, rule, tile, self.isa.multiprocessors)

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Words [O, P, kh, kw, W, 1] as [blocks of 32 channels, chunks, P, 32, words of a chunk], flat."""
        outputs, planes = words.shape[:2]
        size = tile.unroll * WORDS
        taps = np.pad(words[..., 0], [(0, 0)] * 4 + [(0, shape.words - words.shape[4])])
        flat = taps.reshape(outputs, planes, -1)
        chunks = -(-flat.shape[2] // size)
        padded = np.zeros((shape.blocks * LANES, planes, chunks * size), words.dtype)
        padded[:outputs, :, : flat.shape[2]] = flat
        return (padded.reshape(shape.blocks, LANES, planes, chunks, size).transpose(0, 3, 2, 1, 4).ravel(),)
