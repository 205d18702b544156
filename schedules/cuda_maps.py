"""Kernels that move and map values on a GPU; the same functions as in elementwise.py, for many samples at once.

Buffers hold one sample after another. A warp takes a pixel and 32 of its channels, unless a kernel says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from .buffers import pixel_index
from .cuda_device import device_call
from .cuda_warp import LANE, LANES, SAMPLES, WARPS, WarpEmitter, div, fill_halo, launch, locals_of, mod
from .elementwise import Window
from .epilogue import Epilogue, UniformStep
from .formats import Format, round_up
from .isa import Expr, Isa, constant, load
from .problem import parameter_shapes
from .quantizers import uniform_code

THREADS = LANES * WARPS
"""Of a thread block."""


def buffer(name: str, form: Format) -> Any:
    """A parameter that holds every sample in a format."""
    return T.arg(name, T.buffer((SAMPLES * form.size,), form.dtype))


def image(name: str, form: Format) -> Any:
    """A parameter that holds every sample as float32 [C][H][W]."""
    return T.arg(name, T.buffer((SAMPLES * (form.channels * form.height * form.width),), "float32"))


def mapped(isa: Isa, source: Format, window: Window | None, epilogue: Epilogue, out_height: int, out_width: int) -> Any:
    """The PrimFunc of a map: one float32 input, an optional window, the shared epilogue.

    Parameters, in order: input, residuals, signs (only with `Window.signed`), epilogue parameters, outputs.
    """
    channels = round_up(source.channels, LANES)
    blocks = channels // LANES
    rows = out_height * out_width * blocks
    with IRBuilder() as builder, T.prim_func():
        T.func_name("mapped")
        data = buffer("source", source)
        residuals = [buffer(f"residual{index}", form) for index, form in enumerate(epilogue.residuals())]
        signs = T.arg("signs", T.buffer((channels,), "float32")) if window and window.signed else None
        parameters = [
            T.arg(f"parameter{index}", T.buffer((size,), dtype))
            for index, (dtype, size) in enumerate(parameter_shapes(epilogue, channels))
        ]
        outputs = [buffer(f"output{index}", item.format) for index, item in enumerate(epilogue.stores)]
        emitter = WarpEmitter(
            isa, epilogue, parameters=parameters, residuals=residuals, outputs=outputs, channels=channels
        )
        with launch(rows, WARPS) as grid:
            for item, output in zip(epilogue.stores, outputs, strict=True):
                fill_halo(output, item.format, grid)
            # Warps behind the last one repeat it: votes need whole warps, and equal values may be written twice.
            index = T.bind(T.min(grid.warp, SAMPLES * rows - 1))
            emitter.sample = T.bind(div(index, rows))
            pixel, block = T.bind(div(mod(index, rows), blocks)), T.bind(mod(index, blocks))
            y, x = T.bind(div(pixel, out_width)), T.bind(mod(pixel, out_width))
            first = emitter.sample * source.size + block * LANES
            if window is None:
                value = T.bind(load(data, first + pixel_index(source, y, x), isa))
            else:
                value = _pool(isa, data, source, window, signs, (y, x, block), first)
            emitter.emit(value, y, x, block)
    return builder.get()


def _pool(
    isa: Isa, data: Any, source: Format, window: Window, signs: Any, position: tuple[Expr, Expr, Expr], first: Expr
) -> Expr:
    """The mean (float64) or maximum (float32) over the valid positions of a window."""
    y, x, block = position
    top, left = y * window.strides[0] - window.pads[0], x * window.strides[1] - window.pads[1]
    first_row, last_row = T.bind(T.max(top, 0)), T.bind(T.min(top + window.kernel[0], source.height))
    first_column, last_column = T.bind(T.max(left, 0)), T.bind(T.min(left + window.kernel[1], source.width))
    dtype = "float64" if window.average else "float32"
    result = T.alloc_buffer((1,), dtype, scope="local")
    T.buffer_store(result, constant(0.0 if window.average else float("-inf"), dtype, isa), [0])
    sign = load(signs, block * LANES, isa) if signs is not None else None
    with T.serial(0, last_row - first_row) as r, T.serial(0, last_column - first_column) as c:
        value = load(data, first + pixel_index(source, first_row + r, first_column + c), isa)
        if window.average:
            T.buffer_store(result, result[0] + T.cast(value, "float64"), [0])
        else:
            T.buffer_store(result, T.max(result[0], value if sign is None else value * sign), [0])
    if not window.average:
        return T.bind(result[0] if sign is None else result[0] * sign)
    count: Any = T.int32(window.kernel[0] * window.kernel[1])
    if not window.count_include_pad:
        count = (last_row - first_row) * (last_column - first_column)
    return T.bind(result[0] / T.cast(count, "float64"))


def to_nhwc(target: Format) -> Any:
    """The PrimFunc that copies a graph input, float32 [C][H][W], to a float32 NHWC format."""
    blocks = target.padded_channels // LANES
    rows = target.height * target.width * blocks
    with IRBuilder() as builder, T.prim_func():
        T.func_name("to_nhwc")
        data, output = image("source", target), buffer("output", target)
        with launch(rows, WARPS) as grid:
            fill_halo(output, target, grid)
            index = T.bind(T.min(grid.warp, SAMPLES * rows - 1))
            sample, pixel = T.bind(div(index, rows)), T.bind(div(mod(index, rows), blocks))
            y, x = div(pixel, target.width), mod(pixel, target.width)
            channel = T.bind(mod(index, blocks) * LANES + LANE)
            known = T.min(channel, target.channels - 1)
            value = data[((sample * target.channels + known) * target.height + y) * target.width + x]
            at = sample * target.size + pixel_index(target, y, x) + channel
            T.buffer_store(output, T.Select(channel < target.channels, value, T.float32(0.0)), [at])
    return builder.get()


def to_nchw(source: Format) -> Any:
    """The PrimFunc that copies a float32 NHWC format to a graph output, float32 [C][H][W]; a thread an element."""
    pixels = source.height * source.width
    rows = source.channels * pixels
    with IRBuilder() as builder, T.prim_func():
        T.func_name("to_nchw")
        data, output = buffer("source", source), image("output", source)
        with launch(rows, THREADS) as grid:
            at = T.bind(grid.thread)
            with T.If(at < SAMPLES * rows), T.Then():
                c, pixel = div(mod(at, rows), pixels), T.bind(mod(at, pixels))
                place = pixel_index(source, div(pixel, source.width), mod(pixel, source.width))
                first = div(at, rows) * source.size + place
                T.buffer_store(output, data[first + c], [at])
    return builder.get()


def quantize_input(isa: Isa, target: Format, step: UniformStep) -> Any:
    """The PrimFunc that quantizes a graph input of up to 4 channels to bytes, 4 to a pixel; a thread a pixel."""
    rows = target.height * target.width
    with IRBuilder() as builder, T.prim_func():
        T.func_name("quantize_input")
        data, output = image("source", target), buffer("output", target)
        with launch(rows, THREADS) as grid:
            fill_halo(output, target, grid)
            at = T.bind(grid.thread)
            with T.If(at < SAMPLES * rows), T.Then():
                sample, pixel = T.bind(div(at, rows)), T.bind(mod(at, rows))
                word: Any = T.uint32(0)
                for c in range(target.channels):
                    value = T.bind(data[(sample * target.channels + c) * rows + pixel])
                    code = T.bind(T.cast(uniform_code(value, step, isa), "uint32"))
                    word = word | T.shift_left(code, T.uint32(8 * c))
                place = pixel_index(target, div(pixel, target.width), mod(pixel, target.width))
                first = sample * target.size + place
                T.buffer_store(output, T.reinterpret("uint8x4", T.bind(word)), [T.ramp(first, 1, 4)])
    return builder.get()


def concat(sources: Sequence[Format], target: Format) -> Any:
    """The PrimFunc that joins formats of one kind (float32 or bytes) and image size along the channels."""
    rows = target.height * target.width
    with IRBuilder() as builder, T.prim_func():
        T.func_name("concat")
        data = [buffer(f"source{index}", form) for index, form in enumerate(sources)]
        output = buffer("output", target)
        with launch(rows, WARPS) as grid:
            fill_halo(output, target, grid)
            index = T.bind(T.min(grid.warp, SAMPLES * rows - 1))
            sample, pixel = T.bind(div(index, rows)), T.bind(mod(index, rows))
            y, x = T.bind(div(pixel, target.width)), T.bind(mod(pixel, target.width))
            start = T.bind(sample * target.size + pixel_index(target, y, x))
            first = 0
            for form, held in zip(sources, data, strict=True):
                from_pixel = T.bind(sample * form.size + pixel_index(form, y, x))
                _copy(form.channels, lambda c, held=held, at=from_pixel: held[at + c], output, start + first)
                first += form.channels
            zero = getattr(T, target.dtype)(0)
            _copy(target.padded_channels - first, lambda _c: zero, output, start + first)
    return builder.get()


def _copy(count: int, value: Any, output: Any, start: Expr) -> None:
    """Stores ``value(c)`` at ``start + c`` for each c below `count`, 32 at a time."""
    for first in range(0, count, LANES):
        c = first + LANE
        with T.If(c < count), T.Then():
            T.buffer_store(output, value(c), [start + c])


def join_bits(sources: Sequence[Format], target: Format) -> Any:
    """The PrimFunc that joins bit planes along the channels; a warp a plane of a pixel, a thread a bit of each word."""
    rows = target.height * target.width * target.planes
    with IRBuilder() as builder, T.prim_func():
        T.func_name("join_bits")
        data = [buffer(f"source{index}", form) for index, form in enumerate(sources)]
        output = buffer("output", target)
        with launch(rows, WARPS) as grid:
            fill_halo(output, target, grid)
            index = T.bind(T.min(grid.warp, SAMPLES * rows - 1))
            sample, pixel, plane = (
                T.bind(div(index, rows)),
                T.bind(div(mod(index, rows), target.planes)),
                mod(index, target.planes),
            )
            y, x = T.bind(div(pixel, target.width)), T.bind(mod(pixel, target.width))
            bit = locals_of(1, "int32")
            for word in range(target.plane // 4):
                T.buffer_store(bit, T.int32(0), [0])
                first = 0
                for form, held in zip(sources, data, strict=True):
                    c = T.bind(word * LANES + LANE - first)
                    with T.If(T.And(c >= 0, c < form.channels)), T.Then():
                        at = sample * form.size + pixel_index(form, y, x) + plane * form.plane + div(c, 8)
                        T.buffer_store(bit, T.bitwise_and(T.shift_right(T.cast(held[at], "int32"), mod(c, 8)), 1), [0])
                    first += form.channels
                mask = T.bind(device_call("lq_ballot", bit[0] > 0, dtype="uint32"))
                at = sample * target.size + pixel_index(target, y, x) + plane * target.plane + word * 4
                T.buffer_store(output, T.reinterpret("uint8x4", mask), [T.ramp(at, 1, 4)])
    return builder.get()


def softmax(source: Format, target: Format) -> Any:
    """The PrimFunc of a float32 softmax over the channels of a 1x1 image; a warp a sample."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("softmax")
        data, output = buffer("source", source), buffer("output", target)
        with launch(1, WARPS) as grid:
            sample = T.bind(T.min(grid.warp, SAMPLES - 1))
            held, place = sample * source.size, sample * target.size
            result = locals_of(2, "float32", 0.0)
            T.buffer_store(result, data[held], [0])

            def each(body: Any) -> None:
                with T.serial(0, -(-source.channels // LANES)) as turn:
                    c = T.bind(turn * LANES + LANE)
                    with T.If(c < source.channels), T.Then():
                        body(c)

            each(lambda c: T.buffer_store(result, T.max(result[0], data[held + c]), [0]))
            top = T.bind(device_call("lq_warp_max", result[0], dtype="float32"))

            def exponential(c: Expr) -> Expr:
                return T.exp(data[held + c] - top)

            each(lambda c: T.buffer_store(result, result[1] + exponential(c), [1]))
            total = T.bind(device_call("lq_warp_add", result[1], dtype="float32"))
            # Not from what was stored: another warp may repeat this sample, and store at any time.
            each(lambda c: T.buffer_store(output, exponential(c) / total, [place + c]))
            _copy(target.padded_channels - source.channels, lambda _c: T.float32(0.0), output, place + source.channels)
    return builder.get()
