"""The profile of a made-up measurement: every figure by hand, and sums that add up."""

import json
from dataclasses import replace

import pytest
from profiles import INFO, MACHINE, MANIFEST, layer, measurement, region, variant

from lqcompile.errors import ArtifactError, DeviceError
from lqcompile.profiling.alternatives import MEASURED, TABLE, of_layer
from lqcompile.profiling.bounds import bound
from lqcompile.profiling.here import refuse_emulator
from lqcompile.profiling.machine import Machine
from lqcompile.profiling.profile import KEY, check_facts, make_profile


def profile(changes=None, timed=None, **measured):
    made = make_profile(
        MANIFEST, variant(**(changes or {})), measurement(**measured), file="m.tar", artifact_bytes=99, timed=timed
    )
    assert json.loads(json.dumps(made)) == json.loads(json.dumps(made, allow_nan=False))
    return made


def test_times_add_up_to_the_network():
    made = profile()
    times = {layer["name"]: layer["time"] for layer in made["layers"]}
    assert [time["median_us"] for time in times.values()] == pytest.approx([10, 80, 21, 0])
    assert times["conv"] == pytest.approx({"median_us": 80, "p10_us": 79, "p90_us": 89, "least_us": 79})
    assert times["output_0"]["p90_us"] == pytest.approx(0.5)
    assert made["call_us"] == pytest.approx(1)
    # Passes take 114.9, 113.8 and 133.5 with 4 calls in each: their median is not the sum of the medians of layers.
    assert made["interruptions_us"] == pytest.approx(110.9 - 111)
    assert made["unaccounted_us"] == pytest.approx(120 - 110.9 - 1)
    rest = made["call_us"] + made["interruptions_us"] + made["unaccounted_us"]
    total = sum(time["median_us"] for time in times.values()) + rest
    assert total == pytest.approx(1e3 * made["whole"]["median_ms"])
    assert [layer["share"] for layer in made["layers"]] == pytest.approx([10 / 120, 80 / 120, 21 / 120, 0])


def test_work_and_rates():
    made = profile()
    works = {layer["name"]: layer["work"] for layer in made["layers"]}
    assert works["quantize"] is None and works["output_0"] is None
    conv, linear = works["conv"], works["fc"]
    assert conv["bit_operations"] == 4 * conv["macs"] and linear["bit_operations"] == 64 * linear["macs"]
    assert conv["macs_per_s"] == pytest.approx(4_096_000 / 80e-6)
    assert conv["bit_operations_per_s"] == pytest.approx(4 * 4_096_000 / 80e-6)
    assert made["totals"]["macs"] == 4_096_000 + 6_400
    assert made["totals"]["macs_per_s"] == pytest.approx(4_102_400 / 120e-6)


def test_bounds_by_arithmetic_and_by_reading():
    made = profile()
    conv, linear = (layer["work"] for layer in made["layers"] if layer["work"])
    assert conv["bound"] == pytest.approx({"us": 4 * 4_096_000 / 256 / 2e3, "by": "arithmetic"})
    assert conv["fraction_of_bound"] == pytest.approx(32 / 80)
    # The network's 190,000 bytes stay in L2; its linear layer reads 150,000 of them.
    assert linear["bound"] == pytest.approx({"us": 150_000 / 50e3, "by": "L2"})
    assert made["totals"]["bound_us"] == pytest.approx(35)
    assert made["totals"]["bounded_us"] == pytest.approx(101)
    assert made["totals"]["fraction_of_bound"] == pytest.approx(35 / 101)


@pytest.mark.parametrize(("threads", "network_bytes", "expected"), [(2, 0, 16.0), (1, 2 << 20, 32.0), (4, 0, 8.0)])
def test_threads_share_the_work(threads, network_bytes, expected):
    found = bound(layer("a"), 0, network_bytes, {"Lookup": 256}, replace(MACHINE, threads=threads))
    assert found.us == pytest.approx(expected)


def test_weights_beyond_the_caches_come_from_memory():
    found = bound(layer("a", macs=1), 1_000_000, 2 << 20, {"Lookup": 256}, MACHINE)
    assert (found.us, found.by) == (pytest.approx(200), "memory")


def test_a_target_of_unlike_cores_has_no_bound():
    made = profile({"name": "arm-neon"})
    assert all(layer["work"]["bound"] is None for layer in made["layers"] if layer["work"])
    assert made["totals"]["fraction_of_bound"] is None and made["totals"]["bound_us"] == 0


def test_footprints_against_the_caches():
    made = profile()
    found = {layer["name"]: (layer["footprint_bytes"], layer["footprint_level"]) for layer in made["layers"]}
    assert found == {"quantize": (500, "L1"), "conv": (35_200, "L2"), "fc": (150_704, "L2"), "output_0": (104, "L1")}
    unknown = profile(machine=replace(MACHINE, caches=()))
    assert {layer["footprint_level"] for layer in unknown["layers"]} == {None}


def test_sizes():
    assert profile()["size"] == {
        "weights": 47_360,
        "float32_bytes": 189_440,
        "int8_bytes": 47_360,
        "packed_bytes": 17_440,
        "parameter_bytes": 170_000,
        "arena_bytes": 20_000,
    }


def test_alternatives_of_the_table():
    source, found = of_layer(layer("a"))
    assert source == TABLE
    assert [(entry.kernel, entry.times, entry.us) for entry in found] == [("lut", 1.0, None), ("popcount", 1.5, None)]


def test_alternatives_that_a_build_measured_count_by_their_best_tile():
    times = (("popcount", 12.0), ("lut", 8.0), ("lut", 9.0), ("dot8", 6.0))
    measured = [{"kernel": kernel, "tile": [4, 2], "us": us} for kernel, us in times]
    source, found = of_layer(layer("a", measured=measured))
    assert source == MEASURED
    assert [(entry.kernel, entry.times, entry.us) for entry in found] == [
        ("dot8", 0.75, 6.0),
        ("lut", 1.0, 8.0),
        ("popcount", 1.5, 12.0),
    ]


def test_alternatives_that_were_timed_for_the_profile_come_first():
    made = profile(timed={"conv": [("lut", 4.0), ("popcount", 10.0)]})
    conv, linear = (layer["work"] for layer in made["layers"] if layer["work"])
    assert conv["alternatives_from"] == MEASURED
    assert [entry["times"] for entry in conv["alternatives"]] == [1.0, 2.5]
    assert (linear["alternatives_from"], linear["alternatives"]) == (None, ())


def test_no_choice_no_alternatives():
    assert of_layer(layer("a", estimates=[])) == (None, ())
    assert of_layer(layer("a", kernel="asked")) == (None, ())
    tiles = [{"kernel": "lut", "tile": [pixels, 1], "us": 5.0} for pixels in (1, 2)]
    assert of_layer(layer("a", estimates=[], measured=tiles)) == (None, ())


def test_an_artifact_that_says_too_little_is_to_be_built_again():
    regions = [region("conv", "LQConv", 1, 1, 1), {"name": "fc"}]
    message = r"^artifact 'm.tar': found a manifest without bytes of regions, .+; build it again with"
    with pytest.raises(ArtifactError, match=message):
        check_facts({"variants": [variant(), variant(regions=regions)]}, "m.tar")
    check_facts({"variants": [variant()]}, "m.tar")


def test_times_of_an_emulator_must_be_asked_for():
    info = INFO | {"emulator": "qemu-user"}
    with pytest.raises(
        DeviceError, match=r"^board x: found qemu-user emulation, expected hardware, .+ give --emulated"
    ):
        refuse_emulator("board x", info, emulated=False)
    refuse_emulator("board x", info, emulated=True)
    assert profile(info=info)["machine"]["emulator"] == "qemu-user"


def test_what_it_is():
    made = profile()
    assert made[KEY] == 1
    assert made["artifact"]["variant"] == "x86-avx2" and made["artifact"]["bytes"] == 99
    assert made["machine"]["clock_hz"] == 2e9 and made["machine"]["cpu"] == INFO["cpu"]
    assert Machine.from_json(json.loads(json.dumps(MACHINE.to_json()))) == MACHINE
