"""The kernel family of a contraction, the reason given, and the families that can be asked for."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from lqcompile.schedules.x86_lut_pairs import levels_group
from plans import (
    PlanBuilder,
    random_float,
    random_int8,
    random_low_bit,
    random_quantizer,
    random_uniform,
)

from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import Geometry, Plan
from lqcompile.lowering.choose import (
    BYTE_RATES,
    LUT_ROWS,
    MEASURED_FAMILIES,
    PAIR_GAINS,
    RATES,
    TILE_ROWS,
    choose,
    serving,
)
from lqcompile.lowering.families import BYTE_FAMILIES
from lqcompile.lowering.lower import lower
from lqcompile.lowering.parameters import sixteen_bit_run
from lqcompile.target import find

RNG = np.random.default_rng(0)

CASES = {
    "bases": ("low", random_quantizer(RNG, 2), ("popcount",), "bases are not integers, 4 plane pairs"),
    "8 bits": ("int8", random_uniform(RNG), ("dot8",), "8-bit weights on 8-bit codes"),
    "float": ("float", random_uniform(RNG), ("float",), "weights are float32"),
    "weight-only": ("low", None, ("packed", "float"), "weight-only: 2-bit weights on float32 input"),
    "mixed": ("int8", random_quantizer(RNG, 2), ("float",), "8-bit weights on codes of another kind"),
}


def layer(weights: str, quantizer: object, inputs: int = 4, outputs: int = 5, size: int = 3) -> Plan:
    rng = np.random.default_rng(1)
    builder = PlanBuilder(rng, (inputs, size, size))
    shape = (outputs, inputs, 1, 1)
    made = {
        "low": lambda: random_low_bit(rng, shape, 2),
        "integer": lambda: random_low_bit(rng, shape, 2, integer=True),
        "int8": lambda: random_int8(rng, shape),
        "float": lambda: random_float(rng, shape),
    }[weights]()
    return builder.finish(*builder.contract(builder.quantized_input(quantizer), made, Geometry()))


@pytest.mark.parametrize("target", RATES)
@pytest.mark.parametrize("kind", CASES)
def test_layers_that_one_family_serves(kind: str, target: str) -> None:
    weights, quantizer, families, reason = CASES[kind]
    contraction = layer(weights, quantizer).regions[-1].operation
    if (kind == "bases" and len(RATES[target]) > 2) or (kind == "8 bits" and "i8mma" in RATES[target]):
        pytest.skip(f"{target} has two families for it")
    assert serving(contraction, quantizer, target) == families
    choice = choose(contraction, quantizer, target)
    assert (choice.family, choice.reason) == (families[0], reason)


@pytest.mark.parametrize("target", RATES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_integer_bases_get_the_fastest_family(target: str, bits: int) -> None:
    quantizer = random_quantizer(np.random.default_rng(bits), bits, integer=True)
    contraction = layer("integer", quantizer, inputs=32, outputs=64).regions[-1].operation
    families = serving(contraction, quantizer, target)
    assert set(families) == {*RATES[target], *MEASURED_FAMILIES.get(target, ())}
    choice = choose(contraction, quantizer, target)
    costs = {name: (1 if name in BYTE_FAMILIES else 2 * bits) / rate for name, rate in RATES[target].items()}
    if target in BYTE_RATES:
        run = sixteen_bit_run(contraction.weights.integers(), int(quantizer.basis.sum()))
        costs["dot8"] = (run + 1) / (run * BYTE_RATES[target])
    if "lut" in costs:
        ones = int(contraction.weights.bits_array().reshape(64, 2, -1).sum(axis=2).max())
        group = levels_group(tuple(int(value) for value in quantizer.basis), ones) if bits > 1 else 0
        costs["lut"] *= (1 + LUT_ROWS / (32 * 64)) / PAIR_GAINS[4 if group >= 4 else 2 if group >= 2 else 0]
    if target in TILE_ROWS:
        costs["dot8"], costs["planes"] = (costs[name] * TILE_ROWS[target] / 9 for name in ("dot8", "planes"))
    if "b1mma" in costs:
        costs["b1mma"] *= 16 / 9 * 256 / 32  # 9 pixels of 32 channels
        costs["i8mma"] *= 16 / 9
    best, other = sorted(costs, key=lambda name: (costs[name], name))[:2]
    ratio = costs[other] / costs[best]
    assert (choice.family, choice.reason) == (best, f"cost table: {ratio:.1f} x {other} at {2 * bits} plane pairs")


@pytest.mark.parametrize(
    ("outputs", "largest", "weight_basis", "family"),
    [(96, 60, (1, 2), "dot8"), (96, 255, (42, 85), "lut"), (256, 3, (1, 2), "lut")],
)
def test_byte_products_need_small_integers(
    outputs: int, largest: int, weight_basis: tuple[int, int], family: str
) -> None:
    """Products of large ones saturate 16 bits, and then plane pairs are faster; so are tables of small levels."""
    rng = np.random.default_rng(largest)
    quantizer = replace(random_quantizer(rng, 2, integer=True), basis=np.array([1, largest - 1], np.float32))
    plan = layer("integer", quantizer, inputs=64, outputs=outputs)
    operation = plan.regions[-1].operation
    weights = replace(operation.weights, basis=np.tile(np.array(weight_basis, np.float32), (outputs, 1)))
    assert choose(replace(operation, weights=weights), quantizer, "x86-avx2").family == family


@pytest.mark.parametrize("target", ["x86-avx2", "x86-avx-vnni", "x86-avx512-vnni", "x86-avx512-vpopcntdq"])
@pytest.mark.parametrize(("inputs", "family"), [(64, "dot8"), (16384, "popcount")])
def test_linear_layers_beyond_the_cache_read_bit_planes(inputs: int, family: str, target: str) -> None:
    quantizer = replace(random_quantizer(np.random.default_rng(0), 2, integer=True), basis=np.float32([1, 2]))
    plan = layer("integer", quantizer, inputs=inputs, outputs=64, size=1)
    operation = plan.regions[-1].operation
    weights = replace(operation.weights, basis=np.tile(np.float32([1, 2]), (64, 1)))
    assert choose(replace(operation, weights=weights), quantizer, target).family == family


@pytest.mark.parametrize(
    ("outputs", "size", "family"), [(64, 3, "lut"), (32, 3, "lut"), (5, 3, "popcount"), (64, 1, "popcount")]
)
def test_tables_need_many_channels_and_more_than_a_pixel(outputs: int, size: int, family: str) -> None:
    quantizer = random_quantizer(np.random.default_rng(outputs), 2)
    contraction = layer("low", quantizer, outputs=outputs, size=size).regions[-1].operation
    choice = choose(contraction, quantizer, "x86-avx2")
    assert choice.family == family
    assert choice.reason.endswith("at 4 plane pairs")


@pytest.mark.parametrize(
    ("target", "bits", "integer", "outputs", "group", "family"),
    [
        ("x86-avx512", (1, 1), False, 64, 1, "lut"),
        ("x86-avx512", (1, 1), False, 32, 1, "popcount"),  # half a vector
        ("x86-avx2", (1, 1), False, 32, 1, "lut"),
        ("x86-avx512", (1, 1), False, 64, 2, "popcount"),  # one plane at a time
        ("x86-avx512", (2, 2), True, 64, 1, "lut"),
        ("x86-avx512-vnni", (1, 2), True, 64, 1, "lut"),
        ("x86-avx512-vnni", (2, 2), True, 64, 1, "dot8"),
        ("x86-avx512-vnni", (2, 2), False, 64, 1, "lut"),
        ("x86-avx512-vpopcntdq", (1, 1), False, 64, 1, "popcount"),
    ],
)
def test_tables_are_as_wide_as_vectors(
    target: str, bits: tuple[int, int], integer: bool, outputs: int, group: int, family: str
) -> None:
    rng = np.random.default_rng(outputs)
    quantizer = random_quantizer(rng, bits[1], integer=integer)
    if integer:
        quantizer = replace(quantizer, basis=np.float32([5, 10]))
    builder = PlanBuilder(rng, (64, 14, 14))
    weights = random_low_bit(rng, (outputs, 64 // group, 3, 3), bits[0], integer=integer)
    made = builder.contract(builder.quantized_input(quantizer), weights, Geometry(kernel=(3, 3), group=group))
    assert choose(builder.finish(*made).regions[-1].operation, quantizer, target).family == family


@pytest.mark.parametrize(
    ("bits", "outputs", "kernel", "stride", "family"),
    [
        ((1, 1), 16, 3, 1, "lut"),
        ((1, 2), 16, 3, 1, "lut"),
        ((1, 2), 32, 1, 2, "lut"),
        ((2, 2), 16, 3, 1, "dot8"),
        ((2, 2), 32, 3, 2, "dot8"),
        ((2, 2), 32, 1, 2, "dot8"),
    ],
)
def test_few_channels_get_what_was_fastest_there(
    bits: tuple[int, int], outputs: int, kernel: int, stride: int, family: str
) -> None:
    """Words of planes are half empty, and tables pay for each input pixel: ResNet-20 as searches on Zen 3 found it."""
    rng = np.random.default_rng(7)
    quantizer = replace(random_quantizer(rng, bits[1], integer=True), basis=np.float32([[15], [5, 10]][bits[1] - 1]))
    builder = PlanBuilder(rng, (16, 32, 32))
    weights = random_low_bit(rng, (outputs, 16, kernel, kernel), bits[0], integer=True)
    weights = replace(weights, basis=np.tile(np.float32([[31], [10, 21]][bits[0] - 1]), (outputs, 1)))
    geometry = Geometry(kernel=(kernel, kernel), strides=(stride, stride), pads=(kernel // 2,) * 4)
    plan = builder.finish(*builder.contract(builder.quantized_input(quantizer), weights, geometry))
    assert choose(plan.regions[-1].operation, quantizer, "x86-avx2").family == family


@pytest.mark.parametrize(
    ("integer", "bits", "size", "stride", "family"),
    [
        (True, 1, 14, 1, "dot8"),
        (True, 1, 14, 2, "popcount"),  # 7 of 16 rows
        (True, 2, 14, 2, "dot8"),
        (True, 2, 1, 1, "popcount"),
        (False, 2, 14, 1, "planes"),
        (False, 2, 14, 2, "popcount"),
        (False, 2, 1, 1, "popcount"),
    ],
)
def test_tile_registers_are_for_layers_that_fill_them(
    integer: bool, bits: int, size: int, stride: int, family: str
) -> None:
    rng = np.random.default_rng(size)
    quantizer = random_quantizer(rng, bits, integer=integer)
    builder = PlanBuilder(rng, (32, size, size))
    kernel = min(size, 3)
    geometry = Geometry(kernel=(kernel, kernel), strides=(stride, stride), pads=(kernel // 2,) * 4)
    weights = random_low_bit(rng, (32, 32, kernel, kernel), bits, integer=integer)
    plan = builder.finish(*builder.contract(builder.quantized_input(quantizer), weights, geometry))
    choice = choose(plan.regions[-1].operation, quantizer, "x86-amx")
    assert choice.family == family
    assert re.fullmatch(rf"cost table: \d+\.\d x \w+ at {bits * bits} plane pairs", choice.reason)


@pytest.mark.parametrize(("inputs", "families"), [(65535, ("popcount", "lut")), (65536, ("popcount",))])
def test_totals_of_tables_are_16_bits_wide(inputs: int, families: tuple[str, ...]) -> None:
    quantizer = random_quantizer(np.random.default_rng(1), 1)
    contraction = layer("low", quantizer, inputs=inputs).regions[-1].operation
    assert serving(contraction, quantizer, "x86-avx2") == families


@pytest.mark.parametrize("target", [target for target in RATES if "i8mma" in RATES[target]])
def test_tensor_cores_take_layers_of_8_bits(target: str) -> None:
    """Whether one pixel, whose weights are read once, or many; but not groups, which are dense there, with zeros."""
    rng = np.random.default_rng(5)
    quantizer = random_uniform(rng)
    for size, group, family in ((1, 1, "i8mma"), (8, 1, "i8mma"), (8, 32, "dot8")):
        builder = PlanBuilder(rng, (64, size, size))
        weights = random_int8(rng, (64, 64 // group, 1, 1))
        plan = builder.finish(*builder.contract(builder.quantized_input(quantizer), weights, Geometry(group=group)))
        operation = plan.regions[-1].operation
        assert set(serving(operation, quantizer, target)) == {"i8mma", "dot8"}
        choice = choose(operation, quantizer, target)
        assert choice.family == family
        assert re.fullmatch(r"cost table: \d+\.\d x (i8mma|dot8) at 8 bits", choice.reason)


@pytest.mark.parametrize(
    ("target", "bits", "family"),
    [("cuda-a100", (2, 2), "b1mma"), ("cuda-a100", (3, 3), "i8mma"), ("cuda-h200", (2, 2), "b1mma")],
)
def test_bits_or_bytes_on_tensor_cores(target: str, bits: tuple[int, int], family: str) -> None:
    """Eight pairs of planes cost as much as bytes on an A100, and fewer than five on an H200."""
    rng = np.random.default_rng(6)
    quantizer = random_quantizer(rng, bits[1], integer=True)
    builder = PlanBuilder(rng, (256, 4, 4))
    weights = random_low_bit(rng, (64, 256, 1, 1), bits[0], integer=True)
    plan = builder.finish(*builder.contract(builder.quantized_input(quantizer), weights, Geometry()))
    assert choose(plan.regions[-1].operation, quantizer, target).family == family


@pytest.mark.parametrize("target", RATES)
def test_depthwise_layers_on_integers_are_multiplied(target: str) -> None:
    rng = np.random.default_rng(3)
    quantizer = random_quantizer(rng, 1, integer=True)
    builder = PlanBuilder(rng, (24, 3, 3))
    weights = random_low_bit(rng, (24, 1, 1, 1), 1, integer=True)
    plan = builder.finish(*builder.contract(builder.quantized_input(quantizer), weights, Geometry(group=24)))
    choice = choose(plan.regions[-1].operation, quantizer, target)
    assert (choice.family, choice.reason) == ("dot8", "depthwise: multiplied lane by lane, without structural zeros")


@pytest.mark.parametrize("family", ["popcount", "lut", "dot8"])
def test_a_family_can_be_asked_for(family: str) -> None:
    plan = layer("integer", random_quantizer(np.random.default_rng(2), 2, integer=True))
    program = lower(plan, find("x86-avx2"), families={"region1": family})
    assert (program.choices["region1"].family, program.choices["region1"].reason) == (family, "asked for")


def test_a_family_that_does_not_serve_is_refused() -> None:
    plan = layer("low", CASES["bases"][1])
    message = (
        r"^node 'region1' \(Contraction\): found kernel family 'dot8' asked for, expected popcount or lut; ask for "
        r"that or leave the choice to the cost table$"
    )
    with pytest.raises(UnsupportedError, match=message):
        lower(plan, find("x86-avx2"), families={"region1": "dot8"})
