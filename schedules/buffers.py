"""Buffers of kernels: their declaration, where the pixels of a format lie in them, and the halo around those."""

from __future__ import annotations

from collections.abc import Iterable

from tvm.script.ir_builder import tirx as T

from .formats import Format
from .isa import Expr


def declare(name: str, sizes: Iterable[tuple[str, Expr]]) -> list[Expr]:
    """Declares parameters of a PrimFunc: flat buffers called `name` and a number.

    Args:
        name: what is in front of the number.
        sizes: dtype and elements of each.
    """
    return [T.arg(f"{name}{index}", T.buffer((size,), dtype)) for index, (dtype, size) in enumerate(sizes)]


def pixel_index(form: Format, y: Expr, x: Expr) -> Expr:
    """Index of the first element of pixel (y, x)."""
    return ((y + form.halo[0]) * form.padded_width + (x + form.halo[1])) * form.pixel


def fill_halo(buffer: Expr, form: Format) -> None:
    """Writes the pad value into the halo."""
    top, left, bottom, right = form.halo
    value = getattr(T, form.dtype)(form.pad)
    row = form.padded_width * form.pixel

    def fill(start: Expr, count: int) -> None:
        if count:
            with T.serial(0, count) as index:
                T.buffer_store(buffer, value, [start + index])

    fill(0, top * row)
    fill((top + form.height) * row, bottom * row)
    if left or right:
        with T.serial(0, form.height) as y:
            start = (y + top) * row
            fill(start, left * form.pixel)
            fill(start + (left + form.width) * form.pixel, right * form.pixel)
