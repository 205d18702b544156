"""The loop nest of AMX: groups of tile registers.

The sums of a group of tiles go through a buffer on the stack to the shared epilogue, which runs in pieces between the
steps of the next group: TDPBUSD keeps its own unit busy for 16 cycles, the vector units are free. Weights that are bit
planes become bytes on the stack there too, two steps before they are used.
"""

from __future__ import annotations

from typing import Any

from tvm.script.ir_builder import tirx as T

from .combine import combine
from .isa import Expr, load, stack_buffer
from .nest import NestBuilder
from .problem import ConvShape, Problem, Tile, basis_dtype
from .x86_amx_expand import PackedTiles, Slots
from .x86_amx_tile import (
    CHANNELS,
    LINE_BYTES,
    TILE_BYTES,
    Pass,
    Segments,
    TileGroup,
    blocks_of,
    contraction_cycles,
)

A, B = 4, 6
"""First tile register of activations and of weights; sums have 0 to 3, each of the others two."""

CHUNK_CYCLES = 20_000
"""What a thread takes at once: about 10 microseconds, what starting the threads costs."""


class TileContraction(NestBuilder):
    """Builds the PrimFunc of one contraction; its table is the tile configuration.

    Tasks take groups of tiles in a row, channels outermost.
    """

    def __init__(self, family: Any, problem: Problem) -> None:
        super().__init__(family, problem)
        self.group, self.bits = tile_group(problem.tile), family.planes
        shape, group = self.shape, self.group
        self.segments = Segments.of(shape)
        self.tiles = group.down * group.across
        self.passes = blocks_of(self.tiles * self.rule.act_planes, group.blocks * shape.weight_planes)
        self.columns, rows = group.steps(shape)
        self.groups = self.columns * rows
        self.count = self.groups * (shape.blocks // group.blocks)
        self.packed: PackedTiles | None = family.packed(shape, group)
        self.work = contraction_cycles(shape, self.rule, group, family.weight_planes)
        self.tasks = max(1, min(self.count, int(self.work / CHUNK_CYCLES)))
        self.chunk = -(-self.count // self.tasks) if self.parallel else self.count
        self.tasks = -(-self.count // self.chunk)

    def estimated_us(self) -> float:
        """Rough time on one core, at 2 GHz."""
        return self.work / 2000

    def weight_size(self) -> int:
        """Elements of the packed weights."""
        if self.packed:
            return self.packed.size
        shape = self.shape
        return shape.blocks * shape.weight_planes * self.segments.steps * self.segments.lines * LINE_BYTES

    def prepare(self) -> None:
        """Bits to bytes: a nibble times 0x00204081 has its bits 8 places apart, among others that a mask removes."""
        form = self.shape.source
        pixels = form.padded_height * form.padded_width
        shifts = T.cast(T.ramp(T.int32(0), 4, 8), "uint32x8")
        with (
            T.serial(0, pixels) as pixel,
            T.serial(0, self.rule.act_planes) as plane,
            T.serial(0, form.plane // 4) as k,
        ):
            at = pixel * form.pixel + plane * form.plane + k * 4
            word = T.broadcast(T.reinterpret("uint32", self.source[T.ramp(at, 1, 4)]), 8)
            nibbles = T.shift_right(word, shifts) & T.broadcast(T.uint32(15), 8)
            spread = (nibbles * T.broadcast(T.uint32(0x00204081), 8)) & T.broadcast(T.uint32(0x01010101), 8)
            place = (plane * pixels + pixel) * (form.padded_channels // 4) + k * 8
            T.buffer_store(self.counts, T.reinterpret("int32x8", spread), [T.ramp(place, 1, 8)])

    def task(self, index: Expr) -> None:
        """Some groups, with tile registers configured for this thread."""
        first = T.bind(index * self.chunk)
        T.evaluate(_tile("ldtilecfg", T.address_of(self.table[0])))
        self._groups(first, T.bind(T.min(self.count - first, self.chunk)))
        T.evaluate(_tile("tilerelease"))

    def _groups(self, first: Expr, count: Expr) -> None:
        """`count` groups: between the steps of each, the epilogue of the one before it."""
        size = self.pairs * self.tiles * self.group.blocks * self.group.rows * CHANNELS
        self.sums = stack_buffer(size, "int32")
        slots = None
        if self.packed:
            passes = len(self.passes)
            slots = Slots(self.packed, self.weights, groups=self.groups, passes=passes, first=first, count=count)
            slots.start()
        rows, columns = self.group.stride(self.shape)
        positions = rows * columns
        share = -(-positions // self.segments.steps)
        with T.serial(0, count + 1) as index:
            here, before = T.bind(first + index), T.bind(first + index - 1)
            for order, block in enumerate(self.passes):
                with T.If(index < count), T.Then():
                    for register in range(len(block.tiles) * len(block.columns)):
                        T.evaluate(_tile("tilezero", T.int8(register)))
                with T.serial(0, self.segments.steps) as step:
                    if slots:
                        slots.ahead(index, order, step)
                    with T.If(index < count), T.Then():
                        buffer, at = (slots.buffer, slots.at(index, step)) if slots else self._weights_of(here, step)
                        self._step(here, step, block, buffer, at)
                    if order == 0:
                        with T.If(index > 0), T.Then(), T.serial(0, share) as part:
                            position = T.bind(step * share + part)
                            with T.If(position < positions), T.Then():
                                self._finish_position(before, position)
                with T.If(index < count), T.Then():
                    for register, (m, n) in enumerate((m, n) for m in block.tiles for n in block.columns):
                        at = T.address_of(self.sums[self._place(m, n)])
                        T.evaluate(_tile("tilestored64", T.int8(register), at, T.int64(TILE_BYTES)))

    @property
    def _step_bytes(self) -> int:
        """Bytes of the weights of one step."""
        return self._columns * self.segments.lines * LINE_BYTES

    def _origin(self, index: Expr) -> tuple[Expr, Expr, Expr]:
        """First block of channels, and first row and column (after pooling) of a group; the last ones overlap."""
        tile, shape = self.group, self.shape
        place = T.bind(index % self.groups)
        rows, columns = tile.extent(shape)
        step_y, step_x = tile.stride(shape)
        row = T.bind(T.min(place // self.columns * step_y, rows - step_y))
        column = T.bind(T.min(place % self.columns * step_x, columns - step_x))
        return T.bind(index // self.groups * tile.blocks), row, column

    def _weights_of(self, index: Expr, step: Expr) -> tuple[Any, Expr]:
        """The buffer of weights in bytes, and where those of a step of a group start."""
        step_number = index // self.groups * self.segments.steps + step
        return self.weights, T.bind(step_number * self._step_bytes)

    def _step(self, index: Expr, step: Expr, block: Pass, buffer: Any, weights: Expr) -> None:
        """One step of a pass: each tile of activations times each tile of weights, from `weights` on in `buffer`."""
        shape, segments = self.shape, self.segments
        tiles, columns = block.tiles, block.columns
        _, row, column = self._origin(index)
        tap_row, tap_column, part = segments.place(step)
        offset = tap_row * shape.dilations[0] * shape.source.padded_width + tap_column * shape.dilations[1]
        start = T.min(part * TILE_BYTES, segments.starts[-1]) if segments.parts > 1 else 0
        pixel = shape.source.padded_channels
        within = T.bind(offset * pixel + start)

        def activations(m: int, register: int) -> None:
            j, tile = divmod(m, self.tiles)
            base = self._position(row, column, tile) * pixel + within + j * plane_bytes(shape)
            pointer = T.address_of(self.counts[base // 4] if self.bits else self.source[base])
            stride = T.int64(shape.strides[1] * pixel)
            T.evaluate(_tile("tileloadd64", T.int8(register), pointer, stride))

        def weight_tile(n: int, register: int) -> None:
            pointer = T.address_of(buffer[weights + n * segments.lines * LINE_BYTES])
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
        return self.shape.weight_planes * self.group.blocks

    def _position(self, row: Expr, column: Expr, tile: int) -> Expr:
        """First pixel of the padded input that a tile of the group at (row, column) reads."""
        shape, group = self.shape, self.group
        down, across = divmod(tile, group.across)
        y = (row * shape.pool[0] + down) * shape.strides[0] + shape.origin[0]
        x = (column * shape.pool[1] + group.start(shape, across)) * shape.strides[1] + shape.origin[1]
        return y * shape.source.padded_width + x

    def _place(self, m: int, n: int) -> int:
        """Where the sums of virtual tile (m, n) start: positions of tiles beside each other follow one another."""
        return (n * self.tiles * self.rule.act_planes + m) * self.group.rows * CHANNELS

    def _finish_position(self, index: Expr, position: Expr) -> None:
        """The epilogue of one position (after pooling) of a finished group."""
        shape, group = self.shape, self.group
        block, row, column = self._origin(index)
        _, width = group.stride(shape)
        down, across = T.bind(position // width), T.bind(position % width)
        y, x = T.bind(row + down), T.bind(column + across)
        if group.flat:
            place = x
            y, x = T.bind(place // shape.source.padded_width), T.bind(place % shape.source.padded_width)
            with T.If(x < shape.out_width), T.Then():
                self._emit(block, y, x, down, across)
        else:
            self._emit(block, y, x, down, across)

    @property
    def _row_sums(self) -> int:
        """Rows of sums of tiles beside each other."""
        return self.group.across * self.group.rows

    def _emit(self, block: Expr, y: Expr, x: Expr, down: Expr, across: Expr) -> None:
        """All vectors of channels of output (y, x), which is (down, across) of the group."""
        shape, group, rule = self.shape, self.group, self.rule
        channels = shape.blocks * CHANNELS
        basis = self.basis if basis_dtype(rule, self.epilogue) else None
        last = group.start(shape, group.across - 1)
        overlap = self._row_sums - group.rows - last
        across = across * shape.pool[1]
        row = down * shape.pool[0] * self._row_sums + across
        if overlap:
            row = T.bind(row + T.Select(across >= last, T.int32(overlap), T.int32(0)))
        for n in range(group.blocks):
            vector = T.bind(block + n)
            if self.epilogue.mode == "sums":
                for i in range(rule.weight_basis):
                    for j in range(rule.act_planes):
                        pixel = ((i * rule.act_planes + j) * shape.out_height + y) * shape.out_width + x
                        place = T.ramp(pixel * channels + vector * CHANNELS, 1, CHANNELS)
                        T.buffer_store(self.outputs[0], self._tile_sum(i, j, n, row), [place])
                continue
            pooled: Expr = None
            for dy in range(shape.pool[0]):
                for dx in range(shape.pool[1]):

                    def sum_of(i: int, j: int, n: int = n, dy: int = dy, dx: int = dx) -> Expr:
                        return self._tile_sum(i, j, n, row + dy * self._row_sums + dx)

                    value = combine(self.isa, rule, self.epilogue, basis, channels, vector * CHANNELS, sum_of)
                    pooled = value if pooled is None else T.bind(T.max(pooled, value))
            self.emitter.emit(pooled, y, x, vector)

    def _tile_sum(self, i: int, j: int, n: int, row: Expr) -> Expr:
        """S_ij of a conv output, in a row of the sums of its tiles, and vector n of channels."""
        place = self._place(j * self.tiles, i * self.group.blocks + n)
        return load(self.sums, place + row * CHANNELS, self.isa)


def tile_group(tile: Tile) -> TileGroup:
    """The tile as a `TileGroup`.

    Raises:
        TypeError: it is none.
    """
    if not isinstance(tile, TileGroup):
        raise TypeError("tile registers need a TileGroup")
    return tile


def plane_bytes(shape: ConvShape) -> int:
    """Bytes of a plane of bits that become bytes."""
    return shape.source.padded_height * shape.source.padded_width * shape.source.padded_channels


def _tile(name: str, *arguments: Expr) -> Expr:
    """An AMX instruction; registers are immediate."""
    return T.call_llvm_intrin("void", f"llvm.x86.{name}", *arguments)
