"""Figures in words."""

import pytest
from profiles import layer

from lqcompile.reporting import words
from lqcompile.reporting.words import TIMES

TEXTS = {0.0: "0.00", 0.126: "0.13", 99.99: "99.99", 123.45: "123.5"}


@pytest.mark.parametrize(("us", "expected"), [*((us, f"{text} µs") for us, text in TEXTS.items()), (1500, "1.50 ms")])
def test_times(us, expected):
    assert words.duration(us) == expected


def test_rates_and_sizes():
    assert words.rate(None, "MAC") == "-"
    assert words.rate(2.5e12, "bit-op") == "2.50 Tbit-op/s"
    assert (words.macs(115_605_504), words.macs(999)) == ("115.6 MMAC", "999.0 MAC")
    assert (words.size(999), words.size(1500), words.size(3_370_000)) == ("999 B", "1.5 kB", "3.37 MB")
    assert (words.cache_size(32 << 10), words.cache_size(32 << 20)) == ("32 KiB", "32 MiB")
    assert (words.percent(0.5), words.percent(None)) == ("50.0 %", "-")


def test_layers():
    linear = layer("fc", kernel_size=[1, 1], in_shape=[640, 1, 1], out_shape=[10, 1, 1])
    assert words.shape(linear) == "640 to 10"
    grouped = layer("conv", group=4, kernel_size=[3, 1])
    assert words.shape(grouped) == f"3{TIMES}1, 64 to 64 channels, 4 groups, 10{TIMES}10"
    assert words.bits(layer("a")) == "W2A2"
    assert words.bits(layer("a", act_bits=32)) == "W2/32"
    assert words.bits(layer("a", weight_bits=32, act_bits=32)) == "float"
    assert words.fused(["Affine", "Clamp", "Affine", "New"]) == "scale and shift, clamp (ReLU), New"


def test_alternatives():
    entries = [{"kernel": "lut", "times": 1.0, "us": None}, {"kernel": "popcount", "times": 1.5, "us": None}]
    assert words.others({"kernel": "lut", "alternatives": entries}) == f"popcount 1.50{TIMES}"
    assert words.others({"kernel": "lut", "alternatives": []}) == "no other kernel serves"
