"""Layer statistics, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from lqcompile.graph.statistics import layer_statistics, packed_weight_bytes, peak_activation_bytes, totals, value_bytes
from tests.graph.planning import plan_of
from tests.models import Builder, classifier_model
from tests.plans import random_float, random_int8, random_low_bit


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.default_rng().integers(2**32))
    print(f"seed={seed}")  # noqa: T201
    return np.random.default_rng(seed)


def test_low_bit_layer(rng):
    builder = Builder(rng, (8, 6, 6)).quantize(3).conv(16, bits=2, stride=2, group=2, bias=False)
    (layer,) = layer_statistics(plan_of(builder.quantize(2).flatten().linear(1).build()))[:1]
    macs = 16 * 3 * 3 * 4 * 9
    assert (layer.op, layer.weight_bits, layer.act_bits) == ("LQConv", 2, 3)
    assert layer.macs == macs
    assert layer.bit_operations == 6 * macs
    assert layer.packed_parameter_bytes == 16 * 2 * 5 + 4 * 16 * 2
    assert layer.float_parameter_bytes == 4 * 16 * 4 * 9
    assert layer.activation_bytes == 8 * 36 * 3 // 8 + 16 * 9 * 2 // 8
    assert layer.activation_to_parameter_ratio == layer.activation_bytes / layer.packed_parameter_bytes
    assert layer.arithmetic_intensity == 2 * macs / (layer.activation_bytes + layer.packed_parameter_bytes)


def test_edges_of_a_classifier(rng):
    for edges, act_bits, operations in (("int8", 8, 64), ("float", 32, 0)):
        plan = plan_of(classifier_model(rng, edges=edges))
        first, middle, last = layer_statistics(plan)
        assert [layer.op for layer in (first, middle, last)] == ["Conv", "LQConv", "Gemm"]
        for layer in (first, last):
            assert (layer.weight_bits, layer.act_bits) == (act_bits, act_bits)
            assert layer.bit_operations == operations * layer.macs
        assert first.macs == 8 * 144 * 9
        assert first.activation_bytes == 144 * act_bits // 8 + 8 * 144 * 2 // 8
        assert middle.macs == 16 * 144 * 8 * 9
        assert last.macs == 160


def test_weight_only_layer_has_no_bit_operations(rng):
    (layer,) = layer_statistics(plan_of(Builder(rng, (8, 6, 6)).conv(4, bits=4).build()))
    assert (layer.weight_bits, layer.act_bits, layer.bit_operations) == (4, 32, 0)
    assert layer.activation_bytes == 4 * (8 * 36 + 4 * 36)


def test_decoded_levels_count_as_floats(rng):
    plan = plan_of(Builder(rng, (8, 6, 6)).quantize(2).conv_float(4).build())
    assert layer_statistics(plan)[0].act_bits == 32


def test_residual_counts_once_as_an_activation(rng):
    builder = Builder(rng, (4, 6, 6)).conv_float(4, kernel=1)
    (layer,) = layer_statistics(plan_of(builder.add("x").build()))
    assert layer.activation_bytes == 4 * (4 * 36 + 4 * 36)


def test_packed_bytes_of_each_kind(rng):
    assert packed_weight_bytes(random_float(rng, (3, 5))) == 60
    assert packed_weight_bytes(random_int8(rng, (3, 5))) == 15 + 12
    weights = random_low_bit(rng, (3, 9), 2)
    assert packed_weight_bytes(weights) == 3 * 2 * 2 + 4 * 6
    assert packed_weight_bytes(random_low_bit(rng, (3, 9), 2, integer=True)) == 3 * 2 * 2 + 4 * 6 + 4 * 3


def test_values_are_packed_without_gaps(rng):
    plan = plan_of(Builder(rng, (3, 3, 3)).quantize(1).conv(2).build())
    assert [value_bytes(value) for value in plan.values.values()] == [108, 4, 72]


def test_peak_of_a_chain_is_its_widest_layer(rng):
    builder = Builder(rng, (4, 8, 8)).conv_float(8).conv_float(16).conv_float(2)
    plan = plan_of(builder.build())
    assert peak_activation_bytes(plan) == 4 * 64 * (8 + 16)


def test_peak_counts_what_a_later_addition_needs(rng):
    builder = Builder(rng, (4, 8, 8)).conv_float(4).conv_float(32).conv_float(4).add("x")
    assert peak_activation_bytes(plan_of(builder.build())) == 4 * 64 * (4 + 4 + 32)


def test_graph_outputs_stay_alive(rng):
    builder = Builder(rng, (1, 8, 8)).conv_float(16)
    kept = builder.value
    builder.conv_float(1).conv_float(16)
    assert peak_activation_bytes(plan_of(builder.build([kept]))) == 4 * 64 * (16 + 1 + 16)


def test_totals_are_sums(rng):
    plan = plan_of(classifier_model(rng))
    layers, sums = layer_statistics(plan), totals(plan)
    assert sums.layers == 3
    for label in ("macs", "bit_operations", "packed_parameter_bytes", "float_parameter_bytes", "activation_bytes"):
        assert getattr(sums, label) == sum(getattr(layer, label) for layer in layers)
    assert sums.activation_to_parameter_ratio == sums.activation_bytes / sums.packed_parameter_bytes
    assert sums.arithmetic_intensity == 2 * sums.macs / (sums.activation_bytes + sums.packed_parameter_bytes)
    assert sums.peak_activation_bytes == peak_activation_bytes(plan)


def test_totals_without_layers(rng):
    sums = totals(plan_of(Builder(rng, (3, 4, 4)).relu().build()))
    assert (sums.layers, sums.macs, sums.activation_to_parameter_ratio, sums.arithmetic_intensity) == (0, 0, 0.0, 0.0)
    assert sums.peak_activation_bytes == 2 * 4 * 48
