"""Transformed tiles of 3x3 convolutions, against the reference and at the limits of their bytes and 16-bit sums."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from compiling import Compiled, check_equal, compile_plan, missing, skip_unless_runnable
from lqcompile.schedules.packed import Packed
from lqcompile.schedules.x86_bytes import DotBytes
from lqcompile.schedules.x86_winograd import WinogradBytes, WinogradVnni
from plans import PlanBuilder, random_affine, random_low_bit, random_quantizer

from lqcompile.encoding import activation_levels
from lqcompile.graph.plan import Affine, Clamp, Geometry, MaxPool, Plan
from lqcompile.graph.specs import LowBitWeights, Quantizer
from lqcompile.lowering.choose import choose
from lqcompile.lowering.lower import lower
from lqcompile.lowering.winograd import TileProof
from lqcompile.target import find

TARGET = find("x86-avx2")

AROUND = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))

SQUARE = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))

LOOPS = {
    "x86-avx2": WinogradBytes,
    "x86-avx-vnni": WinogradVnni,
    "x86-avx512": WinogradBytes,
    "x86-avx512-vnni": WinogradVnni,
    "x86-avx512-vpopcntdq": WinogradVnni,
}
"""What multiplies transformed tiles, by target."""

needs_avx2 = pytest.mark.skipif(bool(missing(TARGET)), reason=f"this machine lacks {missing(TARGET)}")


def integer_codes(rng: np.random.Generator, basis: tuple[int, ...]) -> Quantizer:
    """Codes with a given integer basis."""
    quantizer = random_quantizer(rng, len(basis), integer=True)
    integers = np.array(basis, np.float32)
    levels, codes = activation_levels(integers.astype(np.float64) * quantizer.scale, 0.0)
    return replace(quantizer, basis=integers, levels=levels.astype(np.float32), codes=codes)


def integer_weights(rng: np.random.Generator, shape: tuple[int, ...], basis: tuple[int, ...]) -> LowBitWeights:
    """Random weights with a given integer basis."""
    made = random_low_bit(rng, shape, len(basis), integer=True)
    return replace(made, basis=np.tile(np.float32(basis), (shape[0], 1)))


def loops(plan: Plan) -> list[str]:
    """The inner loops of a plan's contractions, all of them `dot8`."""
    names = [region.name for region in plan.regions[1:]]
    program = lower(plan, TARGET, families=dict.fromkeys(names, "dot8"))
    return [step.loop for step in program.steps if step.loop]


@pytest.mark.parametrize(
    ("weights", "codes", "run"),
    [
        ((2, 4, 8), (1, 2, 4), 3),  # 126, 28
        ((2, 4, 8), (4, 7, 20), 1),
        ((2, 4, 8), (31, 32), 0),  # two products of 252 and 126 pass 32,767
        ((1, 2), (31, 32), 2),
        ((1, 2), (32, 32), 0),  # 256 fits no byte
        ((1, 2, 4), (1, 2, 4), 6),
        ((5, 10), (1,), 0),  # 135 fits no signed byte
    ],
)
def test_the_proof_knows_the_largest_sums(weights: tuple[int, ...], codes: tuple[int, ...], run: int) -> None:
    """24 channels: six words, all weights at their largest, where G adds nine of them."""
    values = np.full((5, 24, 3, 3), sum(weights), np.int8)
    assert TileProof(values, sum(codes)).sixteen_bit_run() == run
    assert TileProof(-values, sum(codes)).sixteen_bit_run() == run
    exact = 9 * sum(weights) * 4 * sum(codes) * 2  # two products, from a V at the end of its range
    assert run == 0 or run * exact <= 32767
    assert run in (0, 6) or any(n * exact > 32767 for n in range(run + 1, 7) if 6 % n == 0)


def compiled_tiles(seed: int, target: str, size: tuple[int, ...] = ()) -> tuple[Compiled, np.ndarray]:
    """Layers on transformed tiles of an image of any size or the one given, and an input of two images.

    Odd sizes down to one tile, uneven padding, channels that fill no vector, pooling, all epilogues.
    """
    rng = np.random.default_rng(seed)
    fewest = 32 if LOOPS[target] is WinogradVnni else 16
    channels, outputs = int(rng.integers(fewest, 80)), int(rng.integers(3, 70))
    height, width = size or ((2, 3) if seed == 0 else (int(count) for count in rng.integers(5, 24, 2)))
    builder = PlanBuilder(rng, (channels, height, width))
    codes = builder.quantized_input(integer_codes(rng, ((1, 2, 4), (3, 12), (1,))[seed]))
    weights = integer_weights(rng, (outputs, channels, 3, 3), ((2, 4, 7), (1, 2), (1, 2, 4, 7))[seed])
    geometry = Geometry(kernel=(3, 3), pads=tuple(int(pad) for pad in rng.integers(1, 3, 4)))
    coder = (random_quantizer(rng, 3, integer=True), False, ())
    ends = []
    for pool in ((), (SQUARE,)):
        stages = (random_affine(rng, outputs, 0.02), *pool)
        ends += builder.contract(codes, weights, geometry, stages, ((None, False, ()), coder))
        ends += builder.contract(codes, weights, geometry, stages, (coder,))
    plan = builder.finish(*ends)
    names = [region.name for region in plan.regions[1:]]
    compiled = compile_plan(plan, find(target), dict.fromkeys(names, "dot8"))
    assert {step.loop for step in compiled.program.steps if step.loop} == {LOOPS[target].__name__}
    return compiled, rng.normal(size=(2, channels, height, width)).astype(np.float32)


@pytest.mark.parametrize("target", LOOPS)
@pytest.mark.parametrize("seed", range(3))
def test_tiles_equal_the_reference(seed: int, target: str) -> None:
    skip_unless_runnable(find(target))
    compiled, x = compiled_tiles(seed, target)
    check_equal(compiled.plan, compiled.load(), x)


@pytest.mark.parametrize("target", LOOPS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_saturate(sign: int, target: str) -> None:
    """Weights at their largest, so that only three words may be summed, and codes that are 0 or the largest."""
    skip_unless_runnable(find(target))
    rng = np.random.default_rng(sign + 1)
    builder = PlanBuilder(rng, (36, 8, 8))
    quantizer = replace(integer_codes(rng, (1, 2, 4)), thresholds=np.zeros(7, np.float32))
    weights = integer_weights(rng, (20, 36, 3, 3), (2, 4, 8))
    bits = np.zeros((20, 3, 36 * 9), np.uint8)
    bits[: 10 if sign > 0 else 20] = sign > 0
    bits[10:] = rng.integers(0, 2, bits[10:].shape)
    weights = replace(weights, planes=np.packbits(bits, axis=2, bitorder="little").reshape(weights.planes.shape))
    plan = builder.finish(*builder.contract(builder.quantized_input(quantizer), weights, AROUND, ()))
    compiled = compile_plan(plan, find(target), {"region1": "dot8"})
    assert [step.loop for step in compiled.program.steps if step.loop] == [LOOPS[target].__name__]
    x = rng.choice([-1.0, 1.0], size=(2, 36, 8, 8)).astype(np.float32)
    x[1, :, :4] = np.where(np.indices((4, 8)).sum(axis=0) % 3, -1, 1)
    check_equal(plan, compiled.load(), x)


def test_other_layers_keep_plain_byte_products() -> None:
    rng = np.random.default_rng(5)
    builder = PlanBuilder(rng, (32, 6, 6))
    codes = builder.quantized_input(integer_codes(rng, (1, 2)))
    small, large = ((24, 32, 3, 3), (1, 2)), ((24, 32, 3, 3), (10, 21))
    wide = MaxPool(kernel=(1, 2), strides=(1, 2), pads=(0, 0, 0, 0))
    ends = []
    for (shape, basis), geometry, stages in (
        (small, AROUND, ()),
        (large, AROUND, ()),
        (small, AROUND, (Affine(scale=np.ones(24), shift=np.zeros(24)), wide, Clamp(low=0.0, high=9.0))),
        (small, replace(AROUND, strides=(2, 2)), ()),
        (small, replace(AROUND, dilations=(2, 2), pads=(2, 2, 2, 2)), ()),
        (((24, 16, 3, 3), (1, 2)), replace(AROUND, group=2), ()),
        (((24, 32, 1, 1), (1, 2)), Geometry(), ()),
    ):
        ends += builder.contract(codes, integer_weights(rng, shape, basis), geometry, stages)
    first, *others = loops(builder.finish(*ends))
    assert first == WinogradBytes.__name__
    assert set(others[:4]) == {DotBytes.__name__}
    assert WinogradBytes.__name__ not in others


@pytest.mark.parametrize(
    ("weights", "family"), [((2, 4, 8), "dot8"), ((20, 40, 67), "dot8"), ((3, 9), "dot8"), ((9, 22), "lut")]
)
def test_the_cost_table_takes_them_where_they_are_fastest(weights: tuple[int, ...], family: str) -> None:
    rng = np.random.default_rng(6)
    builder = PlanBuilder(rng, (64, 14, 14))
    quantizer = integer_codes(rng, (1, 2, 4) if len(weights) == 3 else (3, 6))
    made = builder.contract(
        builder.quantized_input(quantizer), integer_weights(rng, (64, 64, 3, 3), weights), AROUND, ()
    )
    plan = builder.finish(*made)
    assert choose(plan.regions[1].operation, quantizer, "x86-avx2").family == family


@pytest.mark.parametrize(
    ("weights", "codes", "fits"),
    [
        ((2, 4, 8), (31, 32), True),  # 14: 56 in the corners, 84 at the edges, 126 within; 4 x 63 = 252
        ((2, 4, 8), (32, 32), False),
        ((5, 10), (1,), False),
        ((1,), (63,), True),
    ],
)
def test_the_proof_knows_the_largest_bytes(weights: tuple[int, ...], codes: tuple[int, ...], fits: bool) -> None:
    """All weights at their largest, and with signs that let the outer sums be as large."""
    same = np.full((5, 18, 3, 3), sum(weights), np.int8)
    assert TileProof(same, sum(codes)).fits_bytes() is fits
    assert TileProof(-same, sum(codes)).fits_bytes() is fits
    assert not TileProof(np.full((1, 4, 3, 3), 15, np.int8), 1).fits_bytes()


@pytest.mark.parametrize("target", ["x86-avx2", "x86-avx512"])
@pytest.mark.parametrize("seed", range(2))
def test_float_tiles_are_close_to_the_reference(seed: int, target: str) -> None:
    """Weight-only layers: odd sizes, more channels than a word and fewer, offsets, pooling, all weight bits."""
    skip_unless_runnable(find(target))
    rng = np.random.default_rng([8, seed])
    channels, outputs = ((37, 20), (96, 41))[seed]
    height, width = (int(size) for size in rng.integers(2, 24, 2))
    builder = PlanBuilder(rng, (channels, height, width))
    geometry = Geometry(kernel=(3, 3), pads=tuple(int(pad) for pad in rng.integers(1, 3, 4)))
    ends = []
    for index, pool in enumerate(((), (SQUARE,))):
        weights = random_low_bit(rng, (outputs, channels, 3, 3), 2 * seed + index + 1, offset=True)
        ends += builder.contract(builder.input, weights, geometry, (random_affine(rng, outputs, 0.1), *pool))
    plan = builder.finish(*ends)
    compiled = compile_plan(plan, find(target))
    tiles = [-(-size // 2) for size in plan.regions[0].operation.out_shape[1:]]
    sizes = {step.region: step.outputs[0].size for step in compiled.program.steps if step.loop == Packed.__name__}
    assert sizes["region0"] == 16 * tiles[0] * tiles[1] * (-(-channels // 16) * 16)
    x = rng.normal(size=(2, channels, height, width)).astype(np.float32)
    check_equal(plan, compiled.load(), x, tolerance=1e-4)


@pytest.mark.parametrize(
    ("change", "tiled"), [({}, True), ({"strides": (2, 1)}, False), ({"dilations": (1, 2)}, False)]
)
def test_only_plain_3x3_layers_multiply_float_tiles(change: dict[str, tuple[int, int]], tiled: bool) -> None:
    rng = np.random.default_rng(9)
    builder = PlanBuilder(rng, (16, 9, 9))
    weights = random_low_bit(rng, (16, 16, 3, 3), 1)
    plan = builder.finish(*builder.contract(builder.input, weights, replace(AROUND, **change), ()))
    (step,) = (step for step in lower(plan, TARGET).steps if step.loop)
    assert (len(step.outputs) == 2) is tiled


def test_the_inner_loop_is_byte_products_in_registers() -> None:
    """Eight VPMADDUBSW of eight vectors of weights with one word of codes, none of the stack."""
    rng = np.random.default_rng(7)
    builder = PlanBuilder(rng, (64, 14, 14))
    codes = builder.quantized_input(integer_codes(rng, (1, 2, 4)))
    plan = builder.finish(*builder.contract(codes, integer_weights(rng, (64, 64, 3, 3), (1, 2, 4)), AROUND, ()))
    text = compile_plan(plan, TARGET, {"region1": "dot8"}).assembly()
    bodies = [body.splitlines() for body in re.split(r"^\.L\w+:", text, flags=re.MULTILINE)]
    body = max(bodies, key=lambda lines: (sum("vpmaddubsw" in line for line in lines), -len(lines)))
    counts = {name: sum(f"\t{name}\t" in line for line in body) for name in ("vpmaddubsw", "vpaddw", "vpbroadcastd")}
    assert counts == {"vpmaddubsw": 8, "vpaddw": 8, "vpbroadcastd": 1}
    end = next(number for number, line in enumerate(body) if "\tjne\t" in line)
    assert not any("(%rsp)" in line or "(%rbp)" in line for line in body[:end])
