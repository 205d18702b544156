"""Physical formats of the tensors that travel between kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["f32", "u8", "i16", "bits"]


def round_up(value: int, multiple: int) -> int:
    """The least multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one sample of a (C, H, W) tensor lies in memory: NHWC with a halo, so that kernels never test for borders.

    Args:
        kind: ``f32`` float32; ``u8`` one byte a value; ``i16`` 16 bits a value, 8-bit codes less their zero point;
            ``bits`` bit planes, [H][W][plane][channel / 32] words.
        channels: logical channels.
        height: logical rows.
        width: logical columns.
        halo: rows and columns of `pad` around the image (top, left, bottom, right).
        align: physical channels are a multiple of it (32 for ``bits``).
        planes: bit planes of a pixel (``bits`` only).
        ones_plane: the last plane holds 1 inside the image and 0 in the halo (activation offset).
        pad: value of the halo of ``u8``; the others have zeros there.
    """

    kind: Kind
    channels: int
    height: int
    width: int
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    align: int = 16
    planes: int = 1
    ones_plane: bool = False
    pad: int = 0

    @property
    def padded_height(self) -> int:
        """Rows with the halo."""
        return self.height + self.halo[0] + self.halo[2]

    @property
    def padded_width(self) -> int:
        """Columns with the halo."""
        return self.width + self.halo[1] + self.halo[3]

    @property
    def padded_channels(self) -> int:
        """Channels with the tail of the last vector or word."""
        return round_up(self.channels, self.align)

    @property
    def pixel(self) -> int:
        """Elements of `dtype` in one pixel."""
        if self.kind == "bits":
            return self.planes * self.padded_channels // 8
        return self.padded_channels

    @property
    def plane(self) -> int:
        """Elements of `dtype` in one plane of a pixel."""
        return self.pixel // self.planes

    @property
    def dtype(self) -> str:
        """Element type of the buffer; bit planes are bytes."""
        return {"f32": "float32", "i16": "int16"}.get(self.kind, "uint8")

    @property
    def size(self) -> int:
        """Elements of the buffer."""
        return self.padded_height * self.padded_width * self.pixel

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self.size * {"f32": 4, "i16": 2}.get(self.kind, 1)
