"""Kernels that move and map values: graph inputs and outputs, pooling, sums, concatenation, lone quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .buffers import declare, fill_halo, pixel_index
from .emitter import Emitter
from .epilogue import Epilogue, UniformStep
from .formats import Format, round_up
from .isa import Expr, Isa, constant, load, registers, store, vector
from .problem import PARALLEL_MIN_US, estimated_us, parameter_shapes
from .quantizers import uniform_code


@dataclass(frozen=True, kw_only=True)
class Window:
    """A pooling window over the (float32) input.

    Args:
        kernel, strides: (rows, columns).
        pads: (top, left, bottom, right).
        average: mean instead of maximum.
        count_include_pad: the mean divides by the whole window.
        signed: a parameter float32[channels] of +1 and -1 turns the maximum into a minimum where it is -1.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    average: bool = False
    count_include_pad: bool = False
    signed: bool = False


def mapped(isa: Isa, source: Format, window: Window | None, epilogue: Epilogue, out_height: int, out_width: int) -> Any:
    """Builds the PrimFunc of a map: one float32 input, an optional window, the shared epilogue.

    Parameters, in order: input, residuals, signs (only with `Window.signed`), epilogue parameters, outputs.
    """
    channels = round_up(source.channels, isa.lanes)
    blocks = channels // isa.lanes
    for item in epilogue.stores:
        blocks = max(blocks, item.format.padded_channels // isa.lanes if item.format.kind == "bits" else blocks)
    vectors = out_height * out_width * blocks
    positions = window.kernel[0] * window.kernel[1] if window else 1
    parallel = estimated_us(vectors * positions, 1.0, vectors) >= PARALLEL_MIN_US
    with IRBuilder() as builder, T.prim_func():
        T.func_name("mapped")
        T.func_attr({"tirx.noalias": True})
        data = T.arg("source", T.buffer((source.size,), source.dtype))
        residuals = declare("residual", [(form.dtype, form.size) for form in epilogue.residuals()])
        signs = T.arg("signs", T.buffer((channels,), "float32")) if window and window.signed else None
        parameters = declare("parameter", parameter_shapes(epilogue, channels))
        outputs = declare("output", [(item.format.dtype, item.format.size) for item in epilogue.stores])
        for item, output in zip(epilogue.stores, outputs, strict=True):
            fill_halo(output, item.format)
            _zero_tail(output, item.format, channels)
        emitter = Emitter(isa, epilogue, parameters=parameters, residuals=residuals, outputs=outputs, channels=channels)
        loop = T.parallel if parallel and out_height > 1 else T.serial
        with loop(0, out_height) as y, T.serial(0, out_width) as x, T.serial(0, channels // isa.lanes) as block:
            if window is None:
                value = T.bind(load(data, pixel_index(source, y, x) + block * isa.lanes, isa))
            else:
                value = _pool(isa, data, source, window, signs, (y, x, block))
            emitter.emit(value, y, x, block)
    return builder.get()


def _zero_tail(output: Any, form: Format, channels: int) -> None:
    """Clears the words of a pixel that no vector writes, so that popcounts never see stale bits."""
    if form.kind != "bits" or form.padded_channels <= channels:
        return
    plane = form.padded_channels // 8
    with (
        T.serial(0, form.height) as y,
        T.serial(0, form.width) as x,
        T.serial(0, form.planes) as j,
        T.serial(channels // 8, plane) as byte,
    ):
        T.buffer_store(output, T.uint8(0), [pixel_index(form, y, x) + j * plane + byte])


def _pool(isa: Isa, data: Any, source: Format, window: Window, signs: Any, position: tuple[Expr, Expr, Expr]) -> Expr:
    """The mean (float64) or maximum (float32) over the valid positions of a window."""
    y, x, block = position
    top, left = y * window.strides[0] - window.pads[0], x * window.strides[1] - window.pads[1]
    first_row, last_row = T.bind(T.max(top, 0)), T.bind(T.min(top + window.kernel[0], source.height))
    first_column, last_column = T.bind(T.max(left, 0)), T.bind(T.min(left + window.kernel[1], source.width))
    dtype = "float64" if window.average else "float32"
    result = registers(1, vector(dtype, isa))
    start = 0.0 if window.average else float("-inf")
    T.buffer_store(result, constant(start, dtype, isa), [0])
    sign = load(signs, block * isa.lanes, isa) if signs is not None else None
    with T.serial(0, last_row - first_row) as r, T.serial(0, last_column - first_column) as c:
        index = pixel_index(source, first_row + r, first_column + c) + block * isa.lanes
        value = load(data, index, isa)
        if window.average:
            T.buffer_store(result, result[0] + T.cast(value, vector("float64", isa)), [0])
        else:
            T.buffer_store(result, T.max(result[0], value if sign is None else value * sign), [0])
    if not window.average:
        return T.bind(result[0] if sign is None else result[0] * sign)
    count = window.kernel[0] * window.kernel[1]
    if not window.count_include_pad:
        count = (last_row - first_row) * (last_column - first_column)
    return T.bind(result[0] / T.broadcast(T.cast(count, "float64"), isa.lanes))


def to_nhwc(target: Format) -> Any:
    """Builds the PrimFunc that copies a graph input, float32 [C][H][W], to a float32 NHWC format."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("to_nhwc")
        T.func_attr({"tirx.noalias": True})
        size = target.channels * target.height * target.width
        data = T.arg("source", T.buffer((size,), "float32", align=4))
        output = T.arg("output", T.buffer((target.size,), "float32"))
        fill_halo(output, target)
        with T.serial(0, target.height) as y, T.serial(0, target.width) as x:
            with T.serial(0, target.channels) as c:
                value = data[(c * target.height + y) * target.width + x]
                T.buffer_store(output, value, [pixel_index(target, y, x) + c])
            if target.padded_channels > target.channels:
                with T.serial(target.channels, target.padded_channels) as c:
                    T.buffer_store(output, T.float32(0.0), [pixel_index(target, y, x) + c])
    return builder.get()


def quantize_input(isa: Isa, target: Format, step: UniformStep) -> Any:
    """Builds the PrimFunc that quantizes a graph input of up to 4 channels, float32 [C][H][W].

    To bytes, 4 to a pixel, or to 16 bits, as many to a pixel as there are channels. Vectors run along a row; the image
    must be at least one vector wide.
    """
    lanes = isa.lanes
    with IRBuilder() as builder, T.prim_func():
        T.func_name("quantize_input")
        T.func_attr({"tirx.noalias": True})
        size = target.channels * target.height * target.width
        data = T.arg("source", T.buffer((size,), "float32", align=4))
        output = T.arg("output", T.buffer((target.size,), target.dtype))
        fill_halo(output, target)
        tiles = -(-target.width // lanes)
        with T.serial(0, target.height) as y, T.serial(0, tiles) as tile:
            x = T.bind(T.min(tile * lanes, target.width - lanes))
            codes = []
            for c in range(target.channels):
                value = load(data, (c * target.height + y) * target.width + x, isa)
                codes.append(T.bind(uniform_code(value, step, isa)))
            start = pixel_index(target, y, x)
            if target.kind == "i16":
                _interleave(isa, output, codes, start)
            else:
                word = codes[0]
                for c, code in enumerate(codes[1:], 1):
                    word = word | T.shift_left(code, constant(8 * c, "int32", isa))
                pixels = T.reinterpret(f"uint8x{lanes * 4}", word)
                T.buffer_store(output, pixels, [T.ramp(start, 1, lanes * 4)])
    return builder.get()


def _interleave(isa: Isa, output: Any, codes: Sequence[Expr], start: Expr) -> None:
    """Stores one vector of each channel as 16-bit pixels that lie side by side."""
    lanes, channels = isa.lanes, len(codes)
    narrow = [T.bind(T.cast(code, vector("int16", isa))) for code in codes]
    for part in range(channels):
        places = [divmod(part * lanes + lane, channels) for lane in range(lanes)]
        shuffled = T.Shuffle(narrow, [channel * lanes + pixel for pixel, channel in places])
        store(output, shuffled, start + part * lanes, isa)


def to_nchw(source: Format) -> Any:
    """Builds the PrimFunc that copies a float32 NHWC format to a graph output, float32 [C][H][W]."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("to_nchw")
        T.func_attr({"tirx.noalias": True})
        data = T.arg("source", T.buffer((source.size,), "float32"))
        size = source.channels * source.height * source.width
        output = T.arg("output", T.buffer((size,), "float32", align=4))
        with T.serial(0, source.channels) as c, T.serial(0, source.height) as y, T.serial(0, source.width) as x:
            value = data[pixel_index(source, y, x) + c]
            T.buffer_store(output, value, [(c * source.height + y) * source.width + x])
    return builder.get()


def concat(sources: Sequence[Format], target: Format) -> Any:
    """Builds the PrimFunc that joins formats of one kind (float32 or bytes) and image size along the channels."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("concat")
        T.func_attr({"tirx.noalias": True})
        data = declare("source", [(form.dtype, form.size) for form in sources])
        output = T.arg("output", T.buffer((target.size,), target.dtype))
        fill_halo(output, target)
        with T.serial(0, target.height) as y, T.serial(0, target.width) as x:
            first = 0
            for form, buffer in zip(sources, data, strict=True):
                with T.serial(0, form.channels) as c:
                    value = buffer[pixel_index(form, y, x) + c]
                    T.buffer_store(output, value, [pixel_index(target, y, x) + first + c])
                first += form.channels
            if target.padded_channels > first:
                zero = getattr(T, target.dtype)(0)
                with T.serial(first, target.padded_channels) as c:
                    T.buffer_store(output, zero, [pixel_index(target, y, x) + c])
    return builder.get()


def join_bits(sources: Sequence[Format], target: Format) -> Any:
    """Builds the PrimFunc that joins bit planes of one image size along the channels.

    Relies on zeros behind the channels of each plane, and leaves such zeros behind.
    """
    with IRBuilder() as builder, T.prim_func():
        T.func_name("join_bits")
        T.func_attr({"tirx.noalias": True})
        data = declare("source", [(form.dtype, form.size) for form in sources])
        output = T.arg("output", T.buffer((target.size,), target.dtype))
        fill_halo(output, target)
        with T.serial(0, target.height) as y, T.serial(0, target.width) as x, T.serial(0, target.planes) as j:
            plane = T.bind(pixel_index(target, y, x) + j * target.plane)
            with T.serial(0, target.plane) as byte:
                T.buffer_store(output, T.uint8(0), [plane + byte])
            first = 0
            for form, buffer in zip(sources, data, strict=True):
                _put_bits(output, plane, first, buffer, T.bind(pixel_index(form, y, x) + j * form.plane), form.channels)
                first += form.channels
    return builder.get()


def _put_bits(output: Any, target: Expr, first: int, data: Any, source: Expr, count: int) -> None:
    """Puts `count` bits, from the byte `source` of `data` on, into zeros: to bit `first` from the byte `target` on."""
    start, shift = divmod(first, 8)
    with T.serial(0, -(-count // 8)) as byte:
        at = target + start + byte
        T.buffer_store(output, output[at] | T.shift_left(data[source + byte], T.uint8(shift)), [at])
    spilled = -(-(shift + count) // 8) - 1
    if shift and spilled:
        with T.serial(0, spilled) as byte:
            at = target + start + byte + 1
            T.buffer_store(output, output[at] | T.shift_right(data[source + byte], T.uint8(8 - shift)), [at])


def softmax(source: Format, target: Format) -> Any:
    """Builds the PrimFunc of a float32 softmax over the channels of a 1x1 image."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("softmax")
        T.func_attr({"tirx.noalias": True})
        data = T.arg("source", T.buffer((source.size,), "float32"))
        output = T.arg("output", T.buffer((target.size,), "float32"))
        top, total = registers(1, "float32"), registers(1, "float32")
        T.buffer_store(top, data[0], [0])
        T.buffer_store(total, T.float32(0.0), [0])
        with T.serial(0, source.channels) as c:
            T.buffer_store(top, T.max(top[0], data[c]), [0])
        with T.serial(0, source.channels) as c:
            T.buffer_store(output, T.exp(data[c] - top[0]), [c])
            T.buffer_store(total, total[0] + output[c], [0])
        with T.serial(0, source.channels) as c:
            T.buffer_store(output, output[c] / total[0], [c])
        with T.serial(source.channels, target.padded_channels) as c:
            T.buffer_store(output, T.float32(0.0), [c])
    return builder.get()
