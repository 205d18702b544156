"""Grouped and depthwise convolutions of every family against the reference, on odd groups and shapes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from compiling import X86, Compiled, check_equal, compile_plan, skip_unless_runnable
from plans import (
    PlanBuilder,
    random_affine,
    random_float,
    random_geometry,
    random_int8,
    random_low_bit,
    random_quantizer,
    random_uniform,
)

from lqcompile.graph.plan import Geometry, Plan
from lqcompile.lowering.choose import serving
from lqcompile.lowering.lower import lower
from lqcompile.target import find

GROUPS = [(40, 1, 1), (5, 1, 1), (17, 2, 1), (40, 1, 3), (5, 16, 16), (2, 3, 5), (3, 32, 32), (2, 33, 7)]
"""Groups, input channels and output channels of each: depthwise, with a multiplier, words and parts of words."""


def every_family(rng: np.random.Generator, groups: tuple[int, int, int], target: str) -> tuple[Plan, dict[str, str]]:
    """Grouped convolutions on float and integer bases, bytes and floats, in every family of a target."""
    group, inputs, outputs = groups
    builder = PlanBuilder(rng, (group * inputs, 7, 6))
    ends, families = [], {}

    def contract(source, make, quantizer, **options):
        geometry = random_geometry(rng, group)
        weights = make(rng, (group * outputs, inputs, *geometry.kernel), **options)
        stages = (random_affine(rng, group * outputs, 0.1),)
        coded = ((None, False, ()), (random_quantizer(rng, 2), False, ()))
        made = builder.contract(source, weights, geometry, stages, coded[: 2 if quantizer else 1])
        ends.extend(made)
        return builder.regions[-1]

    for integer in (False, True):
        quantizer = random_quantizer(rng, 2, integer=integer, offset=True)
        codes = builder.quantized_input(quantizer)
        possible = contract(codes, random_low_bit, quantizer, bits=2, integer=integer, offset=True)
        first, *others = serving(possible.operation, quantizer, target)
        families[possible.name] = first
        for family in others:
            region = contract(codes, random_low_bit, quantizer, bits=1, integer=integer, offset=True)
            families[region.name] = family
    uniform = random_uniform(rng, "int8")
    families[contract(builder.quantized_input(uniform), random_int8, uniform).name] = "dot8"
    families[contract(builder.input, random_float, None).name] = "float"
    families[contract(builder.input, random_low_bit, None, bits=2).name] = "float"
    return builder.finish(*ends), families


EMULATED = [("arm-neon", groups) for groups in ((40, 1, 1), (40, 1, 3), (2, 33, 7))]


@pytest.mark.parametrize(
    ("name", "groups"), [*((name, groups) for name in X86 for groups in GROUPS), *EMULATED], ids=str
)
def test_every_family_equals_the_reference(name: str, groups: tuple[int, int, int]) -> None:
    target = find(name)
    skip_unless_runnable(target)
    rng = np.random.default_rng([len(name), *groups])
    plan, families = every_family(rng, groups, name)
    compiled = compile_plan(plan, target, families)
    assert {region: choice.family for region, choice in compiled.program.choices.items()} == families
    x = rng.normal(size=(2, *plan.inputs[0].shape)).astype(np.float32)
    check_equal(plan, compiled.load(), x, tolerance=1e-3)


def depthwise(weights: str) -> Compiled:
    rng = np.random.default_rng(0)
    builder = PlanBuilder(rng, (64, 14, 14))
    geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1), group=64)
    source = builder.quantized_input(random_uniform(rng)) if weights == "int8" else builder.input
    made = {"int8": random_int8, "float": random_float}[weights](rng, (64, 1, 3, 3))
    return compile_plan(builder.finish(*builder.contract(source, made, geometry)), find("x86-avx2"))


@pytest.mark.parametrize(("weights", "instruction"), [("int8", r"vpmovzxbd\s"), ("float", r"vfmadd\w+ps\s")])
def test_depthwise_kernels_load_vectors_of_channels(weights: str, instruction: str) -> None:
    compiled = depthwise(weights)
    assert re.search(instruction + r".*%ymm", compiled.assembly())
    size = {"int8": 1, "float": 4}[weights]
    assert len(compiled.program.steps[-2].constants[0].tobytes()) == 9 * 64 * size


def test_grouped_weights_keep_few_structural_zeros() -> None:
    rng = np.random.default_rng(1)
    builder = PlanBuilder(rng, (256, 6, 6))
    codes = builder.quantized_input(random_quantizer(rng, 2))
    geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1), group=256)
    plan = builder.finish(*builder.contract(codes, random_low_bit(rng, (256, 1, 3, 3), 2), geometry))
    steps = lower(plan, find("x86-avx2"), families={"region1": "popcount"}).steps
    (step,) = [step for step in steps if step.region == "region1"]
    planes = 3  # Two of the weights, and the mask that counts the ones of a channel.
    assert step.constants[0].size == 256 * 9 * planes
