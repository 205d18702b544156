"""AMX (``dot8`` on tile registers): a direct convolution without im2col.

A tile register holds 16 rows of 64 bytes. TDPBUSD multiplies 16 output positions of up to 64 input bytes with the same
bytes of 16 output channels, and adds to 16 x 16 sums: 1024 multiply-accumulates per cycle (Intel 64 and IA-32
Architectures Optimization Reference Manual, chapter on AMX). In NHWC the bytes of one kernel row lie in one piece, so a
tile of activations is loaded where it lies: rows are output positions, one stride apart.

The sums of a group of tiles go through a buffer on the stack to the shared epilogue, which runs in pieces between the
steps of the next group: TDPBUSD keeps its own unit busy for 16 cycles, the vector units are free.

Tile registers belong to a thread and need its configuration (LDTILECFG); Linux lets a process use them only after it
has asked (`lqcompile.cpu`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .combine import combine
from .epilogue import Emitter, Epilogue, fill_halo
from .isa import STACK, Expr, Isa, load
from .problem import ConvShape, SumRule, Tile, basis_dtype, output_shapes, parameter_shapes
from .words import Words
from .x86_amx_tile import CHANNELS, TILE_BYTES, Segments, TileGroup, blocks_of, group_cycles

A, B = 4, 6
"""First tile register of activations and of weights; sums have 0 to 3, each of the others two."""

CHUNK_CYCLES = 20_000
"""What a thread takes at once: about 10 microseconds, what starting the threads costs."""


def tile_configuration(rows: int, depth: int) -> npt.NDArray[np.uint8]:
    """The 64 bytes of LDTILECFG for `rows` output positions and `depth` input bytes: uint8[64]."""
    config = np.zeros(64, np.uint8)
    config[0] = 1
    columns, heights = config[16:32].view(np.uint16), config[48:56]
    columns[:], heights[:] = TILE_BYTES, rows
    columns[A:B] = depth
    heights[B:] = depth // 4
    return config


@dataclass(frozen=True, kw_only=True)
class DotTiles(Words):
    """TDPBUSD: 16 positions by 16 channels by 64 bytes."""

    accumulator: str = "int32"
    weight_dtype: str = "int8"
    cycles: float = 0.0625
    table_size: int = 64

    def operands(self, words: npt.NDArray[Any], shape: ConvShape, tile: Tile) -> tuple[npt.NDArray[Any], ...]:
        """Weights in the order of `TileContraction`, and the tile configuration.

        Args:
            words: int32[O, P, kh, kw, W, 1], four input channels to a word.
            shape: loop nest.
            tile: a `TileGroup`.

        Returns:
            int8[groups of channels, steps, P, blocks, depth / 4, 16 channels, 4], flat, and uint8[64].
        """
        group = _group(tile)
        segments = Segments.of(shape)
        outputs, planes, rows, columns, *_ = words.shape
        data = np.ascontiguousarray(words).view(np.int8).reshape(outputs, planes, rows, columns, -1)
        missing = shape.source.plane - data.shape[-1]
        data = np.pad(data, [(0, shape.blocks * CHANNELS - outputs), *[(0, 0)] * 3, (0, missing)])
        data = data.reshape(len(data), planes, segments.count, segments.bytes)
        parts = []
        for index, start in enumerate(segments.starts):
            part = data[..., start : start + segments.depth].copy()
            part[..., : index * TILE_BYTES - start] = 0  # what the part before it has already
            parts.append(part)
        steps = np.stack(parts, axis=3).reshape(-1, group.blocks, CHANNELS, planes, segments.steps, segments.depth)
        split = steps.reshape(*steps.shape[:-1], -1, 4)
        packed = np.ascontiguousarray(split.transpose(0, 4, 3, 1, 5, 2, 6)).ravel()
        return packed, tile_configuration(group.rows, segments.depth)

    def contraction(
        self, shape: ConvShape, tile: Tile, rule: SumRule, epilogue: Epilogue, parallel: bool = True
    ) -> Any:
        """The PrimFunc; parameters as in `lqcompile.schedules.contraction`, the table is the tile configuration."""
        return TileContraction(self.isa, shape, _group(tile), rule, epilogue, parallel).build()


def _group(tile: Tile) -> TileGroup:
    if not isinstance(tile, TileGroup):
        raise TypeError("tile registers need a TileGroup")
    return tile


class TileContraction:
    """Builds the PrimFunc of one contraction."""

    def __init__(
        self, isa: Isa, shape: ConvShape, tile: TileGroup, rule: SumRule, epilogue: Epilogue, parallel: bool
    ) -> None:
        self.isa, self.shape, self.tile, self.rule, self.epilogue = isa, shape, tile, rule, epilogue
        self.segments = Segments.of(shape)
        self.tiles = tile.down * tile.across
        self.passes = blocks_of(self.tiles * rule.act_planes, tile.blocks * shape.weight_planes)
        columns, rows = tile.steps(shape)
        self.columns, self.groups = columns, columns * rows
        self.total = self.groups * (shape.blocks // tile.blocks)
        chunks = int(group_cycles(shape, rule, tile) * self.total / CHUNK_CYCLES)
        self.chunks = min(self.total, chunks) if parallel and chunks > 1 else 1

    def build(self) -> Any:
        """The PrimFunc."""
        shape, epilogue = self.shape, self.epilogue
        channels = shape.blocks * CHANNELS
        basis = basis_dtype(self.rule, epilogue)
        weights = shape.blocks * shape.weight_planes * self.segments.steps * self.segments.depth * CHANNELS
        with IRBuilder() as builder, T.prim_func():
            T.func_name("contraction")
            T.func_attr({"tirx.noalias": True})
            self.source = T.arg("source", T.buffer((shape.source.size,), shape.source.dtype))
            residuals = [
                T.arg(f"residual{index}", T.buffer((form.size,), form.dtype))
                for index, form in enumerate(epilogue.residuals())
            ]
            self.weights = T.arg("weights", T.buffer((weights,), "int8"))
            config = T.arg("config", T.buffer((64,), "uint8"))
            self.basis = T.arg("basis", T.buffer((shape.weight_planes * channels,), basis)) if basis else None
            parameters = [
                T.arg(f"parameter{index}", T.buffer((size,), dtype))
                for index, (dtype, size) in enumerate(parameter_shapes(epilogue, channels))
            ]
            self.outputs = [
                T.arg(f"output{index}", T.buffer((size,), dtype))
                for index, (dtype, size) in enumerate(output_shapes(shape, self.rule, epilogue, self.isa))
            ]
            self.emitter = Emitter(
                self.isa, epilogue, parameters=parameters, residuals=residuals, outputs=self.outputs, channels=channels
            )
            if epilogue.mode != "sums":
                for item, output in zip(epilogue.stores, self.outputs, strict=True):
                    fill_halo(output, item.format)
            size = -(-self.total // self.chunks)
            loop = T.parallel if self.chunks > 1 else T.serial
            with loop(0, -(-self.total // size)) as chunk:
                first = T.bind(chunk * size)
                T.evaluate(_tile("ldtilecfg", T.address_of(config[0])))
                self._groups(first, T.bind(T.min(self.total - first, size)))
                T.evaluate(_tile("tilerelease"))
        return builder.get()

    def _groups(self, first: Expr, count: Expr) -> None:
        """`count` groups: between the steps of each, the epilogue of the one before it."""
        pairs = self.shape.weight_planes * self.rule.act_planes
        size = pairs * self.tiles * self.tile.blocks * self.tile.rows * CHANNELS
        self.sums = T.alloc_buffer((size,), "int32", scope="global", annotations=STACK)
        window = self.shape.pool[0] * self.shape.pool[1]
        positions = self.tiles * self.tile.rows // window
        share = -(-positions // self.segments.steps)
        with T.serial(0, count + 1) as index:
            here, before = T.bind(first + index), T.bind(first + index - 1)
            for order, block in enumerate(self.passes):
                with T.If(index < count), T.Then():
                    for register in range(len(block.tiles) * len(block.columns)):
                        T.evaluate(_tile("tilezero", T.int8(register)))
                with T.serial(0, self.segments.steps) as step:
                    with T.If(index < count), T.Then():
                        self._step(here, step, block.tiles, block.columns)
                    if order == 0:
                        with T.If(index > 0), T.Then(), T.serial(0, share) as part:
                            position = T.bind(step * share + part)
                            with T.If(position < positions), T.Then():
                                self._finish(before, position)
                with T.If(index < count), T.Then():
                    for register, (m, n) in enumerate((m, n) for m in block.tiles for n in block.columns):
                        at = T.address_of(self.sums[self._place(m, n)])
                        T.evaluate(_tile("tilestored64", T.int8(register), at, T.int64(TILE_BYTES)))

    def _origin(self, index: Expr) -> tuple[Expr, Expr, Expr]:
        """First block of channels, and first row and column (after pooling) of a group; the last ones overlap."""
        tile, shape = self.tile, self.shape
        place = T.bind(index % self.groups)
        rows, columns = tile.extent(shape)
        step_y, step_x = tile.stride(shape)
        row = T.bind(T.min(place // self.columns * step_y, rows - step_y))
        column = T.bind(T.min(place % self.columns * step_x, columns - step_x))
        return T.bind(index // self.groups * tile.blocks), row, column

    def _step(self, index: Expr, step: Expr, tiles: Sequence[int], columns: Sequence[int]) -> None:
        """One step of a pass: each tile of activations times each tile of weights."""
        shape, segments = self.shape, self.segments
        block, row, column = self._origin(index)
        segment, part = T.bind(step // segments.parts), T.bind(step % segments.parts)
        tap_row, tap_column = segment // segments.per_row, segment % segments.per_row
        offset = tap_row * shape.dilations[0] * shape.source.padded_width + tap_column * shape.dilations[1]
        start = T.min(part * TILE_BYTES, segments.starts[-1]) if segments.parts > 1 else 0
        within = T.bind(offset * shape.source.pixel + start)
        weights = T.bind((block // self.tile.blocks * segments.steps + step) * self._columns)

        def activations(m: int, register: int) -> None:
            j, tile = divmod(m, self.tiles)
            base = self._activation_index(row, column, tile) + within + j * shape.source.plane
            pointer = T.address_of(self.source[base])
            stride = T.int64(shape.strides[1] * shape.source.pixel)
            T.evaluate(_tile("tileloadd64", T.int8(register), pointer, stride))

        def weight_tile(n: int, register: int) -> None:
            pointer = T.address_of(self.weights[(weights + n) * (segments.depth * CHANNELS)])
            T.evaluate(_tile("tileloadd64", T.int8(register), pointer, T.int64(TILE_BYTES)))

        def multiply(m: int, n: int) -> None:
            sums = T.int8(m * len(columns) + n)
            T.evaluate(_tile("tdpbusd", sums, T.int8(A + m % 2), T.int8(B + n % 2)))

        if len(columns) <= 2:
            for n, number in enumerate(columns):
                weight_tile(number, B + n)
            for m, number in enumerate(tiles):
                activations(number, A + m % 2)
                for n in range(len(columns)):
                    multiply(m, n)
        else:
            activations(tiles[0], A)
            for n, number in enumerate(columns):
                weight_tile(number, B + n % 2)
                multiply(0, n)

    @property
    def _columns(self) -> int:
        """Weight tiles of one step."""
        return self.shape.weight_planes * self.tile.blocks

    def _activation_index(self, row: Expr, column: Expr, tile: int) -> Expr:
        """Element of the first input of a tile of the group at (row, column)."""
        shape, group = self.shape, self.tile
        down, across = divmod(tile, group.across)
        y = (row * shape.pool[0] + down) * shape.strides[0] + shape.origin[0]
        x = (column * shape.pool[1] + across * group.rows) * shape.strides[1] + shape.origin[1]
        return (y * shape.source.padded_width + x) * shape.source.pixel

    def _place(self, m: int, n: int) -> int:
        """Where the sums of virtual tile (m, n) start."""
        return (m * self._columns + n) * self.tile.rows * CHANNELS

    def _finish(self, index: Expr, position: Expr) -> None:
        """The epilogue of one position (after pooling) of a finished group."""
        shape, group = self.shape, self.tile
        block, row, column = self._origin(index)
        width = group.across * group.rows // shape.pool[1]
        down, across = T.bind(position // width), T.bind(position % width)
        y, x = T.bind(row + down), T.bind(column + across)
        if group.flat:
            place = x
            y, x = T.bind(place // shape.source.padded_width), T.bind(place % shape.source.padded_width)
            with T.If(x < shape.out_width), T.Then():
                self._emit(block, y, x, down, across)
        else:
            self._emit(block, y, x, down, across)

    def _emit(self, block: Expr, y: Expr, x: Expr, down: Expr, across: Expr) -> None:
        """All vectors of channels of output (y, x), which is (down, across) of the group."""
        shape, group, rule = self.shape, self.tile, self.rule
        channels = shape.blocks * CHANNELS
        for n in range(group.blocks):
            vector = T.bind(block + n)
            if self.epilogue.mode == "sums":
                for i in range(rule.weight_basis):
                    for j in range(rule.act_planes):
                        pixel = ((i * rule.act_planes + j) * shape.out_height + y) * shape.out_width + x
                        at = pixel * channels + vector * CHANNELS
                        T.buffer_store(self.outputs[0], self._sum(i, j, n, down, across), [T.ramp(at, 1, CHANNELS)])
                continue
            pooled: Expr = None
            for dy in range(shape.pool[0]):
                for dx in range(shape.pool[1]):

                    def sum_of(i: int, j: int, n: int = n, dy: int = dy, dx: int = dx) -> Expr:
                        return self._sum(i, j, n, down * shape.pool[0] + dy, across * shape.pool[1] + dx)

                    value = combine(self.isa, rule, self.epilogue, self.basis, channels, vector * CHANNELS, sum_of)
                    pooled = value if pooled is None else T.bind(T.max(pooled, value))
            self.emitter.emit(pooled, y, x, vector)

    def _sum(self, i: int, j: int, n: int, down: Expr, across: Expr) -> Expr:
        """S_ij of conv output (down, across) of the group and vector n of channels."""
        group = self.tile
        tile = down * group.across + across // group.rows + j * self.tiles
        at = (tile * self._columns + i * group.blocks + n) * group.rows + across % group.rows
        return load(self.sums, at * CHANNELS, self.isa)


def _tile(name: str, *arguments: Expr) -> Expr:
    """An AMX instruction; registers are immediate."""
    return T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments)
