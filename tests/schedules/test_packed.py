"""Weight-only layers on packed weights: one output pixel and several, by look-up and by flipped signs."""

from __future__ import annotations

import re

import numpy as np
import pytest
from compiling import X86, check_equal, compile_plan, missing, unavailable
from lqcompile.schedules import x86
from lqcompile.schedules.packed import Packed
from plans import PlanBuilder, random_affine, random_geometry, random_low_bit

from lqcompile.graph.plan import Clamp, Geometry, MaxPool, Plan
from lqcompile.target import Target, find

CHANNELS = (1, 3, 32, 33, 77)
"""Fewer than a group of a look-up, a whole word, and words with a rest."""


def runnable(name: str) -> Target:
    # The look-up has an instruction of AVX-512, which is not run in software.
    lacks = (missing if name in X86 else unavailable)(find(name))
    if lacks:
        pytest.skip(f"this machine lacks {', '.join(lacks)}, which {name} needs")
    return find(name)


def weight_only(rng: np.random.Generator, channels: int) -> tuple[Plan, np.ndarray]:
    """Layers on a float32 image: all of it at once, a strided window, a random one, and one with a fused pooling."""
    builder = PlanBuilder(rng, (channels, 9, 7))
    ends = []
    square = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    geometries = (Geometry(kernel=(9, 7)), Geometry(kernel=(3, 2), strides=(7, 6)), random_geometry(rng), around)
    for geometry in geometries:
        outputs = int(rng.integers(1, 50))
        shape = (outputs, channels, *geometry.kernel)
        weights = random_low_bit(rng, shape, int(rng.integers(1, 5)), offset=bool(rng.integers(2)))
        stages = (random_affine(rng, outputs, 0.1), *([square] if geometry is around else []), Clamp(low=-2, high=3))
        ends += builder.contract(builder.input, weights, geometry, stages)
    x = rng.normal(size=(2, *builder.input.shape)).astype(np.float32)
    return builder.finish(*ends), x


@pytest.mark.parametrize(
    ("name", "channels"), [*((name, channels) for name in X86 for channels in CHANNELS), ("arm-neon", 33)]
)
def test_it_is_close_to_the_reference(name: str, channels: int) -> None:
    target = runnable(name)
    plan, x = weight_only(np.random.default_rng([len(name), channels]), channels)
    compiled = compile_plan(plan, target)
    assert {choice.family for choice in compiled.program.choices.values()} == {"packed"}
    check_equal(plan, compiled.load(), x, tolerance=1e-3)


@pytest.mark.parametrize("channels", CHANNELS)
def test_flipped_signs_are_close_to_the_reference(channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    target = runnable("x86-avx2")
    monkeypatch.setattr(x86, "family", lambda isa, name: {"packed": Packed(isa=isa)}[name])
    plan, x = weight_only(np.random.default_rng(channels), channels)
    check_equal(plan, compile_plan(plan, target).load(), x, tolerance=1e-3)


def test_a_float_family_can_be_asked_for() -> None:
    target = runnable("x86-avx2")
    plan, x = weight_only(np.random.default_rng(1), 3)
    compiled = compile_plan(plan, target, {region.name: "float" for region in plan.regions})
    assert {choice.family for choice in compiled.program.choices.values()} == {"float"}
    check_equal(plan, compiled.load(), x, tolerance=1e-3)


def one_pixel(group: int) -> Plan:
    rng = np.random.default_rng(2)
    builder = PlanBuilder(rng, (256,))
    return builder.finish(*builder.contract(builder.input, random_low_bit(rng, (64, 256), 2), Geometry(group=group)))


@pytest.mark.parametrize("name", X86)
def test_signed_sums_are_looked_up(name: str) -> None:
    """VPERMPS (or VPERMD: it moves bits) on whole vectors, for 8 or 16 channels and 3 or 4 activations of a plane."""
    lines = compile_plan(one_pixel(1), find(name)).assembly().splitlines()
    register = "%ymm" if find(name).lanes == 8 else "%zmm"
    looked_up = sum(bool(re.match(r"\s+vperm(ps|d)\s", line)) and register in line for line in lines)
    assert looked_up and looked_up % {8: 11, 16: 8}[find(name).lanes] == 0


def test_weights_stay_packed() -> None:
    plan = one_pixel(1)
    packed, floats = (
        compile_plan(plan, find("x86-avx2"), {"region0": family}).driver.parameters for family in ("packed", "float")
    )
    assert len(packed) == 64 * 256 * 2 // 8 + 2 * 64 * 4
    assert len(floats) == 64 * 256 * 4
