"""What readings say, and that runners take turns."""

import numpy as np
import pytest

from lqcompile.timing import Stopwatch, percentile, spread


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_readings_that_enough_do_not_exceed(seed):
    rng = np.random.default_rng(seed)
    seconds = rng.exponential(1.0, rng.integers(1, 300)).tolist()
    found = spread(seconds)
    for part, value in ((0.10, found.p10_ms), (0.90, found.p90_ms), (0.99, found.p99_ms)):
        assert value in [1e3 * reading for reading in seconds]
        assert np.mean(np.array(seconds) * 1e3 <= value) >= part
        assert np.mean(np.array(seconds) * 1e3 < value) < part
    assert found.median_ms == pytest.approx(1e3 * np.median(seconds))
    assert found.readings == len(seconds)


def test_percentile_of_one_reading():
    assert percentile([3.0], 0.1) == percentile([3.0], 0.99) == 3.0


@pytest.mark.parametrize("seed", range(3))
def test_the_uncertainty_holds_the_true_median_about_19_times_in_20(seed):
    rng = np.random.default_rng(seed)
    true, hits, tries = np.log(2), 0, 400
    for _ in range(tries):
        found = spread(rng.exponential(1.0, 101).tolist())
        hits += abs(found.median_ms / 1e3 - true) <= found.uncertainty * found.median_ms / 1e3 * 1.3
    # The interval is not symmetric round the median; a third more than its half reaches either end of it here.
    assert hits / tries > 0.92


def test_more_readings_are_more_certain():
    readings = np.random.default_rng(0).normal(1.0, 0.05, 1000).tolist()
    assert spread(readings).uncertainty < spread(readings[:50]).uncertainty < 0.05
    assert spread([2.0] * 30).uncertainty == 0


def test_drift_is_that_of_the_last_third():
    assert spread([1.0] * 10 + [1.1] * 10 + [1.25] * 10).drift == pytest.approx(0.25)
    assert spread([2.0] * 9).drift == 0
    assert spread([2.0] * 8).drift is None


def test_json_has_the_figures():
    keys = {"median_ms", "p10_ms", "p90_ms", "p99_ms", "uncertainty", "drift", "readings"}
    assert set(spread([1.0, 2.0]).to_json()) == keys


def test_runners_take_turns():
    order = []

    def runner(name):
        return lambda: order.append(name)

    stopwatch = Stopwatch({name: runner(name) for name in "abc"})
    firsts = []
    for _ in range(6):
        order.clear()
        readings = stopwatch.round()
        assert set(readings) == {"a", "b", "c"}
        assert all(value > 0 for value in readings.values())
        changes = [name for index, name in enumerate(order) if index == 0 or order[index - 1] != name]
        assert sorted(changes) == ["a", "b", "c"]
        firsts.append(changes[0])
    assert firsts == ["a", "b", "c", "a", "b", "c"]
