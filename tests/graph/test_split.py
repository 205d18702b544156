"""Contractions over concatenations read codes: what they become, and that ONNX Runtime computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from lqcompile.graph.plan import Concat, Contraction, is_exact
from lqcompile.graph.split import _over, _take
from lqcompile.reference.values import held_quantizer
from tests.graph.planning import check_against_onnxruntime, plan_of, sketch
from tests.models import Builder
from tests.plans import random_float, random_geometry, random_int8, random_low_bit


@pytest.fixture
def rng():
    seed = int(np.random.default_rng().integers(2**32))
    print(f"seed={seed}")  # noqa: T201
    return np.random.default_rng(seed)


def planned(builder, rng):
    model = builder.build()
    plan = plan_of(model)
    check_against_onnxruntime(model, plan, rng)
    return plan


def contractions(plan):
    """Name of each contraction, and whether it computes on codes."""
    return [
        (region.name, is_exact(region.operation, held_quantizer(plan.values[region.inputs[0]])))
        for region in plan.regions
        if isinstance(region.operation, Contraction)
    ]


def test_float_channels_come_first_then_each_quantizer(rng):
    builder = Builder(rng, (5, 6, 6))
    left = builder.batch_norm().relu().quantize(2).value
    right = builder.at("x").quantize(3, integer=True).value
    builder.at(left).concat("x").concat(right).concat(left).conv(7, offset=True).batch_norm().relu().quantize(2)
    plan = planned(builder.conv(4), rng)
    assert sketch(plan) == [
        "Copy Affine Clamp -> codes",
        "Copy -> codes",
        "Concat -> codes",
        "LQConv -> float",
        "LQConv AddValue -> float",
        "LQConv AddValue -> Affine Clamp codes",
        "LQConv Affine -> float",
    ]
    name = plan.regions[3].name.partition("[")[0]
    assert contractions(plan)[:3] == [
        (f"{name}[5:10]", False),
        (f"{name}[0:5,15:20]", True),
        (f"{name}[10:15]", True),
    ]


def test_one_quantizer_joins_codes(rng):
    builder = Builder(rng, (6, 5, 5))
    first = builder.quantize(2, offset=0.2).value
    builder.at(first).concat(first).concat(first)
    plan = planned(builder.conv(4).batch_norm().relu().quantize(2).conv(4), rng)
    assert sketch(plan)[:3] == ["Copy -> codes", "Concat -> codes", "LQConv Affine Clamp -> codes"]
    assert plan.regions[1].operation == Concat(of_codes=True)
    assert plan.values[plan.regions[1].outputs[0].value.name].quantizer is plan.values[first].quantizer


def test_levels_of_a_concatenation_that_others_read_stay_float(rng):
    builder = Builder(rng, (6, 5, 5))
    left = builder.quantize(2).value
    joined = builder.at("x").quantize(1).concat(left).value
    other = builder.conv(12).value
    plan = planned(builder.at(joined).relu().add(other), rng)
    assert sketch(plan) == [
        "Copy -> codes, levels, codes, levels",
        "Concat Clamp -> float",
        "LQConv -> float",
        "LQConv AddValue -> Affine float",
        "Copy AddValue -> float",
    ]


def test_readers_share_the_codes_that_are_joined(rng):
    builder = Builder(rng, (6, 5, 5)).quantize(2)
    joined = builder.concat(builder.value).value
    left = builder.conv(4).value
    plan = planned(builder.at(joined).conv(4, kernel=1).concat(left), rng)
    assert [type(region.operation).__name__ for region in plan.regions] == [
        "Copy",
        "Concat",
        "Contraction",
        "Contraction",
        "Concat",
    ]


def test_max_pool_and_flattening_are_looked_through(rng):
    builder = Builder(rng, (4, 7, 7))
    left = builder.quantize(2, signed=True).value
    builder.at("x").quantize(3).concat(left).max_pool(3, 2).flatten()
    plan = planned(builder.linear(5), rng)
    assert sketch(plan) == [
        "Copy MaxPool -> codes, codes",
        "LQLinear -> float",
        "LQLinear AddValue -> Affine float",
    ]


def test_max_pool_of_floats_stays_behind_the_concatenation(rng):
    builder = Builder(rng, (4, 7, 7))
    left = builder.relu().value
    plan = planned(builder.at("x").concat(left).max_pool().quantize(2).conv(4), rng)
    assert sketch(plan) == ["Copy Clamp -> float", "Concat -> float", "Copy MaxPool -> codes", "LQConv Affine -> float"]


def test_8_bit_layers_are_split_by_scale(rng):
    builder = Builder(rng, (4, 6, 6))
    left = builder.quantize8("uint8").value
    builder.at("x").quantize8("int8", scale=0.02).concat(left)
    plan = planned(builder.conv8(5), rng)
    assert sketch(plan) == ["Copy -> codes, codes", "Conv -> float", "Conv AddValue -> Affine float"]
    assert [exact for _, exact in contractions(plan)] == [True, True]


def test_codes_of_another_kind_are_read_in_float(rng):
    builder = Builder(rng, (4, 6, 6))
    left = builder.quantize8().value
    plan = planned(builder.at("x").quantize(2).concat(left).conv(5), rng)
    assert sketch(plan) == ["Copy -> levels, codes", "LQConv -> float", "LQConv AddValue -> Affine float"]


def test_float_weights_read_levels(rng):
    builder = Builder(rng, (4, 6, 6))
    left = builder.quantize(1).value
    plan = planned(builder.at("x").quantize(2).concat(left).conv_float(5), rng)
    assert sketch(plan) == ["Copy -> levels, levels", "Concat -> float", "Conv Affine -> float"]


@pytest.mark.parametrize(("channels", "group", "split"), [(4, 2, True), (4, 8, True), (6, 3, False)])
def test_grouped_convolution_is_split_between_groups(rng, channels, group, split):
    builder = Builder(rng, (channels, 6, 6))
    left = builder.quantize(1).value
    builder.at("x").quantize(2, offset=0.1).concat(left)
    plan = planned(builder.conv(2 * group, group=group, offset=True), rng)
    if split:
        assert sketch(plan) == ["Copy -> codes, codes", "LQConv -> float", "LQConv -> float", "Concat Affine -> float"]
        assert [exact for _, exact in contractions(plan)] == [True, True]
    else:
        assert sketch(plan) == ["Copy -> levels, levels", "Concat -> float", "LQConv Affine -> float"]


@pytest.mark.parametrize("make", [lambda r, s: random_low_bit(r, s, 3, offset=True), random_int8])
@pytest.mark.parametrize("kernel", [(3, 2), ()])
def test_some_of_the_weights(rng, make, kernel):
    weights = make(rng, (5, 13, *kernel))
    rows, columns = [1, 4], [0, 3, 4, 12]
    np.testing.assert_array_equal(_take(weights, rows, axis=0).dequantize(), weights.dequantize()[rows])
    np.testing.assert_array_equal(_take(weights, columns, axis=1).dequantize(), weights.dequantize()[:, columns])


def test_part_of_a_contraction_keeps_its_geometry(rng):
    geometry = random_geometry(rng)
    weights = random_low_bit(rng, (4, 6, *geometry.kernel), 2)
    whole = Contraction(weights=weights, geometry=geometry, in_shape=(6, 8, 9), out_shape=(4, 5, 5))
    part = _over(whole, [1, 2])
    assert (part.geometry, part.in_shape, part.out_shape) == (geometry, (2, 8, 9), (4, 5, 5))
    with pytest.raises(TypeError, match="float weights are not split"):
        _take(random_float(rng, (4, 6)), [0], axis=1)
