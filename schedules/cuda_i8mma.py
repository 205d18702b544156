"""One integer sum on int8 tensor cores: ``mma.m16n8k32`` of unsigned codes by signed weights, exact in int32.

Codes are bytes from 0 to 255: integer levels, or 8-bit codes of either sign as they are stored (int8 ones 128 higher).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .cuda_tensor import TensorWords
from .formats import round_up
from .problem import ConvShape

COPY_WORDS = 4
"""Words that are copied at once where the words of a tap allow it."""


@dataclass(frozen=True, kw_only=True)
class I8Mma(TensorWords):
    """Products of 16 x 8 x 32 bytes an instruction."""

    weight_dtype: str = "int32"
    instruction: str = "lq_i8mma"

    def nest(self, shape: ConvShape) -> ConvShape:
        """The loop nest with taps of whole copies, where pixels hold as much: weights are zero in what that adds.

        Taps of up to eight channels stay as they are: an image of three channels has a word a pixel.
        """
        words = round_up(shape.words, COPY_WORDS) if shape.words > COPY_WORDS // 2 else shape.words
        return replace(shape, words=min(words, shape.source.pixel // 4))
