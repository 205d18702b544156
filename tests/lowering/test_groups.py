"""Windows of input words for tiles of grouped convolutions, against the dense weights."""

from __future__ import annotations

import numpy as np
import pytest
from lqcompile.schedules.formats import Format
from lqcompile.schedules.problem import ConvShape

from lqcompile.graph.plan import Contraction, Geometry
from lqcompile.graph.specs import FloatWeights
from lqcompile.lowering.groups import narrow
from lqcompile.lowering.parameters import dense


def grouped(rng: np.random.Generator) -> tuple[Contraction, np.ndarray]:
    """A 1x1 convolution of random groups, and its dense weights [O, C]."""
    group, inputs, outputs = (int(n) for n in rng.integers(1, [9, 20, 20]))
    values = rng.integers(1, 100, (group * outputs, inputs, 1, 1)).astype(np.float32)
    geometry = Geometry(group=group)
    channels = group * inputs
    contraction = Contraction(
        weights=FloatWeights(values=values),
        geometry=geometry,
        in_shape=(channels, 1, 1),
        out_shape=(group * outputs, 1, 1),
    )
    return contraction, dense(values, geometry, channels)[:, :, 0, 0]


@pytest.mark.parametrize("seed", range(40))
def test_windows_hold_all_weights_that_are_not_zero(seed: int) -> None:
    rng = np.random.default_rng(seed)
    contraction, weights = grouped(rng)
    outputs, channels = weights.shape
    word_channels, tile_channels = int(rng.choice([1, 4, 8, 32])), int(rng.choice([4, 8, 16, 32, 64]))
    total = -(-channels // word_channels)
    padded = np.pad(weights, [(0, 0), (0, total * word_channels - channels)])
    words = padded.reshape(outputs, 1, 1, 1, total, word_channels)
    shape = ConvShape(
        source=Format(kind="f32", channels=channels, height=1, width=1),
        kernel=(1, 1),
        strides=(1, 1),
        dilations=(1, 1),
        origin=(0, 0),
        out_height=1,
        out_width=1,
        blocks=1,
        words=total,
    )
    narrowed, kept = narrow(shape, words, contraction, word_channels=word_channels, tile_channels=tile_channels)
    assert narrowed.words == kept.shape[4] <= total
    assert narrowed.window is not None
    found = np.zeros_like(padded)
    for output in range(outputs):
        start = min(narrowed.window.first_word(output // tile_channels), narrowed.window.last_word)
        columns = slice(start * word_channels, (start + narrowed.words) * word_channels)
        found[output, columns] = kept[output].ravel()
    np.testing.assert_array_equal(found, padded)


def test_a_depthwise_window_is_as_wide_as_the_tile() -> None:
    rng = np.random.default_rng(0)
    channels = 256
    values = rng.normal(size=(channels, 1, 1, 1)).astype(np.float32)
    geometry = Geometry(group=channels)
    contraction = Contraction(
        weights=FloatWeights(values=values), geometry=geometry, in_shape=(256, 1, 1), out_shape=(256, 1, 1)
    )
    words = dense(values, geometry, channels).reshape(channels, 1, 1, 1, 64, 4)
    shape = ConvShape(
        source=Format(kind="u8", channels=channels, height=1, width=1),
        kernel=(1, 1),
        strides=(1, 1),
        dilations=(1, 1),
        origin=(0, 0),
        out_height=1,
        out_width=1,
        blocks=32,
        words=64,
    )
    for tile_channels in (8, 16, 64):
        narrowed, _ = narrow(shape, words, contraction, word_channels=4, tile_channels=tile_channels)
        assert narrowed.words == tile_channels // 4
