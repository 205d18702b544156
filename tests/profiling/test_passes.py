"""Passes over a real network, and what a machine can do; no time decides a test."""

import math
import statistics

import numpy as np
import pytest

from lqcompile.profiling.caches import Cache
from lqcompile.profiling.machine import measure_machine
from lqcompile.profiling.measure import MOST, measure
from lqcompile.profiling.passes import Readings, time_passes
from lqcompile.profiling.probes import probe_library
from lqcompile.runtime import load
from lqcompile.target import find


@pytest.fixture(scope="module")
def model(classifier):
    return load(classifier / "model.tar", threads=1)


@pytest.fixture(scope="module")
def probes(shared_target, tmp_path_factory):
    path = tmp_path_factory.mktemp("probes") / "probes.so"
    path.write_bytes(probe_library(find(shared_target)))
    return path


def sample(model, seed=0):
    rng = np.random.default_rng(seed)
    return {port.name: rng.standard_normal((2, *port.shape)).astype(np.float32) for port in model.inputs}


def test_every_pass_gives_one_reading_of_each(model):
    readings = time_passes(model, sample(model), seconds=60, most=7)
    assert list(readings.regions) == [region["name"] for region in model.variant["regions"]]
    assert {len(values) for values in (readings.whole, readings.call, *readings.regions.values())} == {7}
    assert min(readings.whole) > 0
    assert len(time_passes(model, sample(model), seconds=0, most=7).whole) == 1


def test_the_network_still_gives_what_it_gave(model):
    """Timing works in the memory of the model: a run afterwards must not see it."""
    inputs = sample(model, seed=3)
    expected = model.run(inputs)
    time_passes(model, sample(model, seed=4), seconds=0, most=1)
    for name, array in model.run(inputs).items():
        np.testing.assert_array_equal(array, expected[name])


def test_readings_are_put_together():
    readings = Readings(whole=[1.0], regions={"a": [0.5]}, call=[0.1])
    readings.extend(Readings(whole=[2.0], regions={"a": [0.6]}, call=[0.2]))
    assert readings.to_json() == {"whole": [1.0, 2.0], "regions": {"a": [0.5, 0.6]}, "call": [0.1, 0.2]}


def test_a_machine(probes):
    machine = measure_machine(probes, 1, [Cache(level=1, bytes=16 << 10, cores=1)])
    assert 1e8 < machine.clock_hz < 1e10
    assert machine.bytes_per_s.keys() == {"L1", "memory"}
    assert all(math.isfinite(value) and value > 0 for value in machine.bytes_per_s.values())
    assert machine.os


class FakePlace:
    """Passes of given times; counts what it is asked for."""

    name = "a place"
    info = {"cpu": "x"}  # noqa: RUF012

    def __init__(self, whole):
        self.whole, self.asked = whole, 0

    def machine(self, library, threads):
        return (library, threads)

    def passes(self, seconds, most):
        self.asked += 1
        times = [next(self.whole) for _ in range(most)]
        return Readings(whole=times, regions={"a": times}, call=[0.0] * most)

    def conditions(self):
        return {"clock_mhz": [self.asked]}


def test_it_ends_when_the_median_is_certain():
    place = FakePlace(iter([1.0] * 10_000))
    told = []
    found = measure(place, b"", threads=3, limit_s=60, progress=lambda text, part: told.append((text, part)))
    assert found.settled and place.asked == 1
    assert (found.place, found.machine) == ("a place", (b"", 3))
    assert (found.before["clock_mhz"], found.after["clock_mhz"]) == ([0], [1])
    assert told[0] == ("measuring the machine", 0.0) and "within 0.0 %" in told[-1][0]


def test_it_ends_when_there_are_enough_passes_or_the_time_is_up():
    rng = np.random.default_rng(0)
    place = FakePlace(iter(rng.uniform(1.0, 9.0, 100_000)))
    found = measure(place, b"", threads=1, limit_s=3600, progress=lambda _text, _part: None)
    assert not found.settled and len(found.readings.whole) == MOST
    assert statistics.median(found.readings.whole) > 1
    once = FakePlace(iter(rng.uniform(1.0, 9.0, 1000)))
    assert not measure(once, b"", threads=1, limit_s=0.0, progress=lambda _text, _part: None).settled
    assert once.asked == 1
