"""Formats, halos and steps of a lowered plan, and the plans that are refused."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from plans import PlanBuilder, random_affine, random_int8, random_low_bit, random_quantizer, random_uniform

from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import AddValue, Affine, Clamp, Copy, Geometry, MaxPool
from lqcompile.lowering.layers import fused_pool
from lqcompile.lowering.lower import lower
from lqcompile.target import find

AVX2 = find("x86-avx2")

SQUARE = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
OVERLAPPING = MaxPool(kernel=(3, 3), strides=(1, 1), pads=(1, 1, 1, 1))


def test_a_value_has_a_tensor_for_each_kind_of_reader_with_the_widest_halo() -> None:
    rng = np.random.default_rng(0)
    builder = PlanBuilder(rng, (40, 8, 8))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    wide = Geometry(kernel=(3, 3), pads=(2, 0, 1, 1))
    tall = Geometry(kernel=(3, 3), pads=(0, 1, 3, 0))
    ends = []
    for geometry in (wide, tall, Geometry()):
        shape = (8, 40, *geometry.kernel)
        ends += builder.contract(codes, random_low_bit(rng, shape, 1, integer=True), geometry)
    plan = builder.finish(*ends)
    families = {"region1": "popcount", "region2": "popcount", "region3": "dot8"}
    program = lower(plan, AVX2, families=families)
    forms = {t.form.kind: t.form for step in program.steps for t in step.outputs if t.value == codes.name}
    assert forms.keys() == {"bits", "u8"}
    assert (forms["bits"].halo, forms["bits"].planes, forms["bits"].padded_channels) == ((2, 1, 3, 1), 2, 64)
    assert (forms["u8"].halo, forms["u8"].padded_channels) == ((0, 0, 0, 0), 48)
    keys = [tensor.key for step in program.steps for tensor in step.outputs]
    assert len(keys) == len(set(keys))
    assert {kernel.region for kernel in program.sums} == set(families)


@pytest.mark.parametrize(
    ("target", "dilation", "kind", "size"),
    [
        ("x86-avx2", 1, "i16", 9 * 21 * 3),  # side by side, and a column in which the last word of a row may end
        ("x86-avx2", 2, "u8", 9 * 20 * 4),
        ("x86-avx512-vnni", 1, "u8", 9 * 20 * 4),
    ],
)
def test_a_narrow_image_is_quantized_to_rows_or_to_one_word_a_pixel(target, dilation, kind, size) -> None:
    rng = np.random.default_rng(1)
    builder = PlanBuilder(rng, (3, 9, 20))
    image = builder.quantized_input(random_uniform(rng))
    geometry = Geometry(dilations=(1, dilation))
    plan = builder.finish(*builder.contract(image, random_int8(rng, (4, 3, 1, 1)), geometry))
    (tensor,) = lower(plan, find(target)).steps[0].outputs
    assert (tensor.form.kind, tensor.size) == (kind, size)
    assert tensor.dtype == tensor.form.dtype


@pytest.mark.parametrize(
    ("stages", "fused"),
    [
        ((SQUARE,), True),
        ((Clamp(low=0, high=1), SQUARE, AddValue(name="r")), True),
        ((AddValue(name="r"), SQUARE), False),
        ((OVERLAPPING,), False),
        ((SQUARE, Clamp(low=0, high=1), SQUARE), False),
        ((MaxPool(kernel=(3, 3), strides=(3, 3), pads=(0, 0, 0, 0)),), False),
        ((MaxPool(kernel=(2, 2), strides=(2, 2), pads=(1, 0, 1, 0)),), False),
        ((Clamp(low=0, high=1),), False),
    ],
)
def test_pooling_is_fused_where_tiles_cover_windows(stages: tuple[object, ...], fused: bool) -> None:
    weights = random_low_bit(np.random.default_rng(0), (4, 2, 1, 1), 2)
    assert (fused_pool(weights, stages) is not None) == fused


def test_pooling_is_not_fused_where_weights_cannot_be_negated() -> None:
    weights = random_int8(np.random.default_rng(0), (2, 2, 1, 1))
    assert weights.values.flat[0] == -128
    falling = Affine(scale=np.asarray([-1.0, 1.0]), shift=np.zeros(2))
    rising = Affine(scale=np.asarray([1.0, -1.0]), shift=np.zeros(2))
    assert fused_pool(weights, (falling, SQUARE)) is None
    assert fused_pool(weights, (SQUARE, falling)) is SQUARE
    lighter = replace(weights, values=np.maximum(weights.values, -127))
    assert fused_pool(lighter, (falling, SQUARE)) is SQUARE
    assert fused_pool(lighter, (rising, SQUARE)) is SQUARE


def test_a_second_pooling_in_a_chain_is_refused() -> None:
    rng = np.random.default_rng(2)
    builder = PlanBuilder(rng, (4, 8, 8))
    codes = builder.quantized_input(random_quantizer(rng, 1))
    stages = (OVERLAPPING, random_affine(rng, 4), OVERLAPPING)
    plan = builder.finish(*builder.contract(codes, random_low_bit(rng, (4, 4, 1, 1), 1), Geometry(), stages))
    message = (
        "node 'region1': found a second max-pooling or a residual sum behind an overlapping max-pooling in one chain, "
        "expected one of them; give the tensor between them a second consumer or reorder them"
    )
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        lower(plan, AVX2)


def test_a_pooling_behind_a_map_is_refused() -> None:
    builder = PlanBuilder(np.random.default_rng(3), (4, 8, 8))
    made = builder.add(Copy(), (builder.input,), (4, 8, 8), (Clamp(low=0, high=1), OVERLAPPING))
    message = (
        "node 'region0' (Copy): found a max-pooling behind other stages of one chain without a convolution, expected "
        "it first; give the tensor before it a second consumer"
    )
    with pytest.raises(UnsupportedError, match=f"^{re.escape(message)}$"):
        lower(builder.finish(*made), AVX2)


def test_sums_that_do_not_fit_int32_are_refused() -> None:
    rng = np.random.default_rng(4)
    builder = PlanBuilder(rng, (150_000,))
    image = builder.quantized_input(random_uniform(rng))
    weights = random_int8(rng, (1, 150_000))
    plan = builder.finish(*builder.contract(image, weights, Geometry()))
    bound = int(np.abs(weights.values.astype(np.int64)).sum()) * 255
    assert bound > 2**31
    message = rf"^node 'region1': integer sums reach {bound}, expected at most {2**31 - 1}; snap the bases"
    with pytest.raises(UnsupportedError, match=message):
        lower(plan, AVX2)
