"""Ones of the activations under each window: C_j of ``S_ij = 2 * popcount(B_i & C_j) - popcount(C_j)``.

All output channels share them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from .formats import Format
from .isa import Expr, registers
from .problem import ConvShape


def count_windows(counts: Any, shape: ConvShape, planes: int, ones: Callable[[Expr, int], Expr]) -> None:
    """Emits C_j of every output pixel: each input pixel is counted once, a window adds up what its pixels have.

    Args:
        counts: int32 workspace, see `workspace_size`: [output pixels, planes], then [input pixels, planes].
        shape: loop nest.
        planes: of the activations.
        ones: count of one plane (a number) of an input pixel.
    """
    width, columns = shape.source.padded_width, shape.out_width
    single = shape.kernel == (1, 1)
    pixels = 0 if single else shape.out_height * columns * planes
    if not single:
        with T.serial(0, shape.source.padded_height * width) as pixel:
            for j in range(planes):
                T.buffer_store(counts, ones(pixel, j), [pixels + pixel * planes + j])
    with T.serial(0, shape.out_height) as y, T.serial(0, columns) as x:
        row = y * shape.strides[0] + shape.origin[0]
        first = T.bind(row * width + x * shape.strides[1] + shape.origin[1])
        for j in range(planes):
            total = ones(first, j) if single else T.int32(0)
            for r in range(shape.kernel[0] if not single else 0):
                for c in range(shape.kernel[1]):
                    tap = r * shape.dilations[0] * width + c * shape.dilations[1]
                    total = total + counts[pixels + (first + tap) * planes + j]
            T.buffer_store(counts, total, [(y * columns + x) * planes + j])


def pixel_ones(source: Any, form: Format, pixel: Expr, plane: int) -> Expr:
    """Ones in one plane of a pixel of `form`."""
    held = registers(1, "int32")
    T.buffer_store(held, T.int32(0), [0])
    with T.serial(0, form.plane // 4) as k:
        word = T.reinterpret("uint32", source[T.ramp(pixel * form.pixel + plane * form.plane + k * 4, 1, 4)])
        T.buffer_store(held, held[0] + T.cast(T.popcount(word), "int32"), [0])
    return held[0]
