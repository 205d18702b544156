"""Grouped convolutions: which words of the input a tile of output channels reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import Contraction
from lqcompile.schedules.problem import ConvShape, Window


def narrow(
    shape: ConvShape, words: npt.NDArray[Any], contraction: Contraction, *, word_channels: int, tile_channels: int
) -> tuple[ConvShape, npt.NDArray[Any]]:
    """Leaves out words in which all channels of a tile have structural zeros.

    Args:
        shape: loop nest over all words.
        words: [O, P, kh, kw, W, vectors], dense.
        contraction: the grouped convolution.
        word_channels: input channels of a word.
        tile_channels: output channels of a tile.

    Returns:
        The loop nest over the words of a window, and those words [O, P, kh, kw, V, vectors] of each channel's tile.
    """
    groups, outputs, total = contraction.geometry.group, len(words), words.shape[4]
    window = Window(
        outputs=outputs // groups,
        inputs=contraction.in_shape[0] // groups,
        word_channels=word_channels,
        tile_channels=tile_channels,
    )
    spans = []
    for tile in range(-(-outputs // tile_channels)):
        last_channel = min((tile + 1) * tile_channels, outputs) - 1
        end = -(-(last_channel // window.outputs + 1) * window.inputs // word_channels)
        spans.append((window.first_word(tile), end))
    count = max(end - start for start, end in spans)
    starts = np.repeat([min(start, total - count) for start, _ in spans], tile_channels)[:outputs]
    index = (starts[:, None] + np.arange(count)).reshape(outputs, 1, 1, 1, count, 1)
    kept = np.take_along_axis(
        words, np.broadcast_to(index, (outputs, *words.shape[1:4], count, words.shape[5])), axis=4
    )
    return replace(shape, words=count, window=replace(window, last_word=total - count)), kept
