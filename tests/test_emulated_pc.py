"""Every x86 target on an emulated processor that it is for: integers and codes equal, and no lesser processor runs it.

This is the part of the operator matrix that every run takes; ``make test-x86-emulated`` takes all of it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compiling import X86, check_equal, compile_plan, skip_unless_emulated
from emulated_pc import PROCESSORS, StoppedError, skip_unless_made
from plans import (
    PlanBuilder,
    random_affine,
    random_geometry,
    random_int8,
    random_low_bit,
    random_quantizer,
    random_uniform,
    small_network,
)

from lqcompile.graph.plan import Geometry, Plan
from lqcompile.graph.specs import Int8Weights, LowBitWeights
from lqcompile.target import find

sys.path.append(str(Path(__file__).parent / "schedules"))
from test_operators import Sampled, every_family
from test_winograd import LOOPS, compiled_tiles

FEWER = {
    "x86-avx-vnni": ("x86-avx2", "vpdpbusd"),
    "x86-avx512-vnni": ("x86-avx512", "vpdpbusd"),
    "x86-avx512-vpopcntdq": ("x86-avx512-vnni", "vpopcnt"),
    "x86-amx": ("x86-avx512-vpopcntdq", "ldtilecfg"),
}
"""Target to one that is almost it, and the instruction that it adds."""


ADDED = X86[1:]
"""Targets beyond AVX2, which other tests run."""


def one_layer(rng: np.random.Generator, channels: int = 70) -> Plan:
    """A 3x3 convolution of integer bases."""
    builder = PlanBuilder(rng, (channels, 5, 6))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    weights = random_low_bit(rng, (40, channels, 3, 3), 2, integer=True)
    return builder.finish(*builder.contract(codes, weights, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))))


def test_there_is_a_processor_for_every_target() -> None:
    assert list(PROCESSORS) == X86


@pytest.mark.parametrize("name", ADDED)
def test_every_family_equals_the_reference(name: str) -> None:
    skip_unless_emulated(find(name))
    plan, families, x = every_family(np.random.default_rng([X86.index(name), 33]), 33, name)
    compiled = compile_plan(plan, find(name), families)
    assert {region: choice.family for region, choice in compiled.program.choices.items()} == families
    check_equal(plan, compiled.emulated(name), x[:1])


@pytest.mark.parametrize("name", ADDED)
def test_networks_equal_the_reference(name: str) -> None:
    skip_unless_emulated(find(name))
    rng = np.random.default_rng(X86.index(name))
    plan = small_network(rng, integer=True)
    x = rng.normal(size=(1, *plan.inputs[0].shape)).astype(np.float32)
    check_equal(plan, compile_plan(plan, find(name)).emulated(name), x, tolerance=1e-4)


@pytest.mark.parametrize("name", [name for name in LOOPS if name in ADDED and name != "x86-avx512-vpopcntdq"])
def test_transformed_tiles_equal_the_reference(name: str) -> None:
    skip_unless_made()
    compiled, x = compiled_tiles(0, name, (5, 6))
    check_equal(compiled.plan, compiled.emulated(name), x[:1])


@pytest.mark.parametrize("channels", [5, 70])
def test_tiles_equal_the_reference(channels: int) -> None:
    """AMX, with weights that are nowhere negative: Debian's Bochs multiplies signed bytes of tiles as unsigned ones."""
    skip_unless_made()
    rng = np.random.default_rng(channels)
    builder = Sampled(rng, (channels, 9, 8))
    families, ends = {}, []
    for outputs in (3, 45):
        for kind in ("low-bit", "int8"):
            geometry = random_geometry(rng)
            shape = (outputs, channels, *geometry.kernel)
            weights: LowBitWeights | Int8Weights
            if kind == "low-bit":
                codes = builder.quantized_input(random_quantizer(rng, 3, integer=True))
                weights = never_negative(random_low_bit(rng, shape, 2, integer=True))
            else:
                codes = builder.quantized_input(random_uniform(rng))
                made = random_int8(rng, shape)
                weights = replace(made, values=np.maximum(made.values, 0))
            following = random_quantizer(rng, 2)
            stages = (random_affine(rng, outputs, 0.1),)
            ends += builder.contract(codes, weights, geometry, stages, ((None, False, ()), (following, False, ())))
            families[builder.regions[-1].name] = "dot8"
    plan = builder.finish(*ends)
    compiled = compile_plan(plan, find("x86-amx"), families)
    assert "tdpbusd" in compiled.assembly()
    check_equal(plan, compiled.emulated("x86-amx"), builder.held["x"][:1])


def never_negative(weights: LowBitWeights) -> LowBitWeights:
    """The weights with a last plane that is all +1 and outweighs the others."""
    planes, basis = weights.planes.copy(), np.abs(weights.basis)
    planes[:, -1] = 255
    basis[:, -1] = basis[:, :-1].sum(1) + basis[:, -1]
    return replace(weights, planes=planes, basis=basis)


@pytest.mark.parametrize("name", FEWER)
def test_a_processor_without_the_instruction_stops_at_it(name: str) -> None:
    """The emulator is no more capable than the processor: what passes above needs nothing else."""
    skip_unless_made()
    less, instruction = FEWER[name]
    family = "popcount" if instruction == "vpopcnt" else "dot8"
    plan = one_layer(np.random.default_rng(0))
    compiled = compile_plan(plan, find(name), {"region1": family})
    x = np.zeros((1, *plan.inputs[0].shape), np.float32)
    with pytest.raises(StoppedError, match=rf"^emulated {PROCESSORS[less].model}: stopped at '{instruction}"):
        compiled.emulated(less).run({"x": x})
    compiled.emulated(name).run({"x": x})
