"""Look-ups of two planes of codes at once, against the reference and at the limits of their bytes and sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compiling import check_equal, compile_plan, unavailable
from lqcompile.schedules import x86
from lqcompile.schedules.formats import Format
from lqcompile.schedules.problem import ConvShape, Tile
from lqcompile.schedules.x86_lut import Lookup
from lqcompile.schedules.x86_lut_nest import LookupTile, pass_groups
from lqcompile.schedules.x86_lut_pairs import (
    LookupCounts,
    LookupLevels,
    LookupPixels,
    levels_group,
    pair_lookup,
    pair_tile,
    piece_counts,
)
from lqcompile.schedules.x86_lut_pass import runs
from plans import PlanBuilder, random_affine, random_geometry, random_low_bit, random_quantizer

from lqcompile.encoding import activation_levels
from lqcompile.graph.plan import Geometry, MaxPool
from lqcompile.graph.specs import Quantizer
from lqcompile.lowering.choose import Choice
from lqcompile.lowering.lower import lower
from lqcompile.target import Target, find

TARGET = find("x86-avx2")
ISA = x86.machine(TARGET)

WIDE = find("x86-avx512")
"""The target without VNNI whose vectors hold 64 channels."""

BASES = {(1, 2): 8, (3, 5): 7, (15, 16): 2, (1, 2, 4): 8, (2, 3, 7, 8): 3}
"""Integer bases of codes to the look-ups whose bytes are added."""

on_both = pytest.mark.parametrize(
    "target",
    [
        pytest.param(
            target, id=target.name, marks=[pytest.mark.skipif(bool(lacks), reason=f"this machine lacks {lacks}")]
        )
        for target in (TARGET, WIDE)
        for lacks in [unavailable(target)]
    ],
)
"""Runs a test with vectors of both widths, where the machine or an emulated one has them."""


def integer_codes(rng: np.random.Generator, basis: tuple[int, ...]) -> Quantizer:
    """Codes with a given integer basis."""
    quantizer = random_quantizer(rng, len(basis), integer=True)
    integers = np.array(basis, np.float32)
    levels, codes = activation_levels(integers.astype(np.float64) * quantizer.scale, 0.0)
    return replace(quantizer, basis=integers, levels=levels.astype(np.float32), codes=codes)


def test_tables_hold_the_sums_of_levels_and_both_counts() -> None:
    rng = np.random.default_rng(0)
    first, second, weights = (rng.integers(0, 2, (500, 4)) for _ in range(3))
    powers = np.array([1, 2, 4, 8])
    row, entry = first @ powers + 16 * (second @ powers), weights @ powers
    counts = pair_lookup(ISA, 2, (), 100).table().reshape(256, 16)[row, entry]
    np.testing.assert_array_equal(counts & 15, (first * weights).sum(axis=1))
    np.testing.assert_array_equal(counts >> 4, (second * weights).sum(axis=1))
    levels = pair_lookup(ISA, 4, (3, 5, 2, 7), 100).table().reshape(2, 256, 16)[:, row, entry]
    np.testing.assert_array_equal(levels[0], ((3 * first + 5 * second) * weights).sum(axis=1))
    np.testing.assert_array_equal(levels[1], ((2 * first + 7 * second) * weights).sum(axis=1))


@pytest.mark.parametrize("basis", BASES)
def test_as_many_bytes_are_added_as_hold_the_sum(basis: tuple[int, ...]) -> None:
    group = levels_group(basis, 100)
    assert group == BASES[basis]
    assert group * 4 * sum(basis) <= 255
    assert group == 8 or (group + 1) * 4 * sum(basis) > 255


@pytest.mark.parametrize(
    ("planes", "integers", "ones", "kind"),
    [
        (1, (1,), 100, LookupPixels),
        (2, (), 100, LookupCounts),
        (2, (15, 16), 2114, LookupLevels),
        (2, (15, 16), 2115, LookupCounts),  # 65,565 does not fit 16 bits
        (2, (15, 17), 100, LookupCounts),  # two look-ups of 128 do not fit a byte
        (2, (-1, 2), 100, LookupCounts),
    ],
)
def test_levels_are_added_only_where_they_fit(planes: int, integers: tuple[int, ...], ones: int, kind: type) -> None:
    assert type(pair_lookup(ISA, planes, integers, ones)) is kind


def test_grouped_layers_keep_single_planes() -> None:
    rng = np.random.default_rng(3)
    builder = PlanBuilder(rng, (64, 5, 5))
    codes = builder.quantized_input(random_quantizer(rng, 2))
    ends = []
    for group in (1, 2):
        weights = random_low_bit(rng, (64, 64 // group, 1, 1), 1)
        ends += builder.contract(codes, weights, Geometry(group=group), ())
    plan = builder.finish(*ends)
    names = [region.name for region in plan.regions[1:]]
    program = lower(plan, TARGET, families=dict.fromkeys(names, "lut"))
    loops = {step.region: step.loop for step in program.steps if step.loop}
    assert [loops[name] for name in names] == [LookupCounts.__name__, Lookup.__name__]


@on_both
@pytest.mark.parametrize("basis", [(15, 16), (1, 2, 4), (2, 3, 7, 8)])
def test_sums_of_levels_equal_the_reference(basis: tuple[int, ...], target: Target) -> None:
    """Odd shapes, all weight bits, a pooled layer, a residual epilogue, and tiles of many passes."""
    rng = np.random.default_rng(list(basis))
    channels, outputs = int(rng.integers(20, 100)), 5 * target.lanes
    builder = PlanBuilder(rng, (channels, 9, 11))
    codes = builder.quantized_input(integer_codes(rng, basis))
    square = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    choices, ends = {}, []
    for bits, stages, tile in (
        (1, (), Tile(pixels=5, blocks=2)),
        (2, (), None),
        (3, (square,), Tile(pixels=2, blocks=1)),
        (4, (), Tile(pixels=1, blocks=2)),
        (2, (square,), LookupTile(pixels=1, blocks=2, pieces=3, rows=4)),
    ):
        geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)) if stages else random_geometry(rng)
        weights = random_low_bit(rng, (outputs, channels, *geometry.kernel), bits, integer=True)
        stages = (random_affine(rng, outputs, 0.02), *stages)
        coder = (random_quantizer(rng, 2), False, ())
        ends += builder.contract(
            codes, weights, geometry, stages, (coder,) if square in stages or bits == 1 else ((None, False, ()), coder)
        )
        choices[builder.regions[-1].name] = Choice(family="lut", reason="asked for", tile=tile)
    plan = builder.finish(*ends)
    compiled = compile_plan(plan, target, choices=choices)
    assert {step.loop for step in compiled.program.steps if step.loop} == {LookupLevels.__name__}
    check_equal(plan, compiled.load(), rng.normal(size=(2, channels, 9, 11)).astype(np.float32))


def test_neighbours_of_a_row_share_look_ups() -> None:
    pooled = [(dy, 2 * pixel + dx) for pixel in range(2) for dy in range(2) for dx in range(2)]
    assert pass_groups(pooled, paired=True) == [(0, 1), (2, 3), (4, 5), (6, 7)]
    columns = [(dy, pixel) for pixel in range(3) for dy in range(2)]
    assert pass_groups(columns, paired=True) == [(0, 2), (1, 3), (4,), (5,)]
    assert pass_groups(columns, paired=False) == [(number,) for number in range(6)]


@on_both
@pytest.mark.parametrize("integer", [True, False])
def test_pixels_that_share_look_ups_equal_the_reference(integer: bool, target: Target) -> None:
    """One activation bit: all weight bits, rows of odd and even length, strides, dilation, pooling, tiles of rows."""
    rng = np.random.default_rng([9, integer])
    channels, outputs = int(rng.integers(20, 100)), 5 * target.lanes
    builder = PlanBuilder(rng, (channels, 9, 11))
    codes = builder.quantized_input(random_quantizer(rng, 1, integer=integer))
    square = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    cases = [
        (1, around, (), None),
        (2, Geometry(kernel=(3, 2), strides=(2, 2), dilations=(1, 2), pads=(1, 0, 2, 1)), (), None),
        (3, around, (square,), LookupTile(pixels=1, blocks=1)),
        (1, around, (square,), LookupTile(pixels=3, blocks=2, pieces=9, rows=2)),
        (2, around, (), LookupTile(pixels=4, blocks=1, rows=3)),
        (4, Geometry(kernel=(9, 11)), (), None),
        (1, Geometry(), (), LookupTile(pixels=3, blocks=1)),
    ]
    choices, ends = {}, []
    for bits, geometry, stages, tile in cases:
        weights = random_low_bit(rng, (outputs, channels, *geometry.kernel), bits, integer=integer)
        coder = (random_quantizer(rng, 2), False, ())
        ends += builder.contract(codes, weights, geometry, (random_affine(rng, outputs, 0.02), *stages), (coder,))
        choices[builder.regions[-1].name] = Choice(family="lut", reason="asked for", tile=tile)
    plan = builder.finish(*ends)
    compiled = compile_plan(plan, target, choices=choices)
    assert {step.loop for step in compiled.program.steps if step.loop} == {LookupPixels.__name__}
    check_equal(plan, compiled.load(), rng.normal(size=(2, channels, 9, 11)).astype(np.float32))


def test_weights_beyond_the_first_cache_are_cut() -> None:
    for channels, outputs, expected in ((64, 64, 1), (256, 256, 6), (512, 512, 9), (2048, 512, 36)):
        family = pair_lookup(ISA, 2, (5, 10), 100)
        shape = nest(channels, outputs, 14, 3)
        tile = pair_tile(family, shape, outputs // 32, None)
        assert tile == LookupTile(pixels=1, blocks=2, unroll=2, pieces=expected)
    counts = pair_lookup(ISA, 1, (1,), 100)
    for window, expected in ((0, 12), (96, 6), (64, 9)):
        pixels = pair_tile(replace(counts, window=window), nest(256, 256, 14, 3), 8, None)
        assert pixels == LookupTile(pixels=2, blocks=2, unroll=2, pieces=expected), "cut where counts are flushed"
    wide = pair_tile(pair_lookup(x86.machine(WIDE), 2, (5, 10), 100), nest(256, 256, 14, 3), 4, None)
    assert wide == LookupTile(pixels=1, blocks=2, unroll=2, pieces=9), "vectors of twice as many bytes"
    assert piece_counts(nest(64, 64, 224, 3), 1) == (1,), "sums of so long a row would fill the cache instead"
    assert piece_counts(nest(96, 64, 14, 1), 1) == (1, 2, 3), "whole groups of look-ups"


def test_look_ups_of_a_row_of_taps_are_one_run() -> None:
    around = nest(64, 64, 14, 3)
    assert runs(around, 1) == (1, 48)
    assert runs(around, 2) == runs(replace(around, dilations=(1, 2)), 1) == (3, 16), "others lie between"


@pytest.mark.parametrize("seed", range(3))
def test_windows_of_counts_follow_from_the_weights(seed: int) -> None:
    """No aligned window has more ones than a byte can count, and no longer one would do."""
    rng = np.random.default_rng(seed)
    shape, counts = nest(256, 64, 14, 3), pair_lookup(ISA, 1, (1,), 100)
    bits = rng.random((64, 2, 3, 3, 32, 2, 4)) < rng.uniform(0.2, 0.9)
    words = (bits @ (1 << np.arange(4))).astype(np.uint8)
    proven = counts.proven(words, shape)
    assert isinstance(proven, LookupPixels)
    ordered = np.moveaxis(bits.sum(axis=-1), 5, 4).reshape(64 * 2 * 3, 192)
    sizes = [size for size in range(64, 193) if 192 % size == 0]
    fitting = [size for size in sizes if ordered.reshape(-1, size).sum(axis=1).max() <= 255]
    assert proven.window == max(fitting, default=0)
    for count in (192, 96, 80, 64, 7):
        part = proven.unflushed(count)
        assert count % part == 0 and (part <= 63 or proven.window % part == 0)
    assert counts.unflushed(192) == 48 and replace(counts, window=96).unflushed(192) == 96


def nest(channels: int, outputs: int, size: int, kernel: int) -> ConvShape:
    """The loop nest of a convolution of two-bit weights."""
    return ConvShape(
        source=Format(kind="bits", channels=channels, height=size, width=size, planes=2),
        kernel=(kernel, kernel),
        strides=(1, 1),
        dilations=(1, 1),
        origin=(0, 0),
        out_height=size,
        out_width=size,
        blocks=outputs // 8,
        words=channels // 8,
        weight_planes=2,
    )


@on_both
@pytest.mark.parametrize("channels", [128, 260])
@pytest.mark.parametrize("integer", [True, False])
def test_the_largest_counts_do_not_overflow(channels: int, integer: bool, target: Target) -> None:
    """All codes and weights one: bytes of counts are widened in time, within a row of taps and within a tap."""
    rng = np.random.default_rng([channels, integer])
    builder = PlanBuilder(rng, (channels, 4, 5))
    quantizer = integer_codes(rng, (4, 11)) if integer else random_quantizer(rng, 2)
    quantizer = replace(quantizer, thresholds=np.array([-8.0, -4.0, 1.0], np.float32))
    weights = random_low_bit(rng, (33, channels, 3, 3), 2, integer=integer)
    planes = weights.planes.copy()
    planes[:8], planes[8:16] = 255, 0
    planes &= np.packbits(np.ones(channels * 9, np.uint8), bitorder="little")
    codes = builder.quantized_input(quantizer)
    made = builder.contract(codes, replace(weights, planes=planes), Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)), ())
    plan = builder.finish(*made)
    compiled = compile_plan(plan, target, {builder.regions[-1].name: "lut"})
    expected = LookupLevels if integer and 15 * 9 * channels <= 65535 else LookupCounts
    assert {step.loop for step in compiled.program.steps if step.loop} == {expected.__name__}
    check_equal(plan, compiled.load(), np.full((1, channels, 4, 5), 2.0, np.float32))
