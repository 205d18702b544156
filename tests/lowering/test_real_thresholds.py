"""Float64 thresholds against the chain that they stand for, on the numbers next to them."""

import numpy as np
import pytest

from lqcompile.lowering.parameters import real_thresholds


@pytest.mark.parametrize("seed", range(20))
def test_levels_change_exactly_at_the_thresholds(seed):
    rng = np.random.default_rng(seed)
    channels, count = 7, 3
    scale = rng.uniform(0, 2, (channels, 1)) * (rng.random((channels, 1)) < 0.8)
    shift = rng.normal(size=(channels, 1))

    def value_of(values):
        return np.maximum(values * scale + shift, 0.0).astype(np.float32)

    wanted = np.sort(rng.normal(size=count)).astype(np.float32)
    bound = rng.uniform(0.5, 50, channels)
    found = real_thresholds(value_of, wanted, bound)
    assert found.shape == (count, channels)
    for level in range(count):
        at = found[level]
        always, never = np.isneginf(at), at == bound
        inside = ~always & ~never
        real = np.where(always, 0.0, at)
        assert (value_of(real[:, None])[:, 0][~always] <= wanted[level]).all()
        assert (value_of(np.nextafter(real, np.inf)[:, None])[:, 0][inside] > wanted[level]).all()
        assert (value_of(-bound[:, None])[:, 0][always] > wanted[level]).all()
