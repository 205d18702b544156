"""Sizes of physical tensors."""

import numpy as np
import pytest
from lqcompile.schedules.formats import Format, round_up


@pytest.mark.parametrize("seed", range(5))
def test_the_size_is_that_of_the_padded_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    channels, height, width, top, left, bottom, right = (int(v) for v in rng.integers(1, 80, 7))
    planes = int(rng.integers(1, 6))
    image = {"channels": channels, "height": height, "width": width, "halo": (top, left, bottom, right)}
    pixels = (height + top + bottom) * (width + left + right)
    words = -(-channels // 32)
    bits = Format(kind="bits", align=32, planes=planes, **image)
    assert (bits.size, bits.nbytes, bits.dtype) == (pixels * words * 4 * planes, pixels * words * 4 * planes, "uint8")
    floats = Format(kind="f32", align=16, **image)
    padded = -(-channels // 16) * 16
    assert (floats.size, floats.nbytes, floats.dtype) == (pixels * padded, pixels * padded * 4, "float32")
    assert Format(kind="u8", align=4, **image).pixel == -(-channels // 4) * 4


def test_round_up() -> None:
    assert [round_up(value, 16) for value in (0, 1, 16, 17)] == [0, 16, 16, 32]
