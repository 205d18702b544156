"""Clamps at the end of an epilogue, which follow the rounding to float32 where they are float32 numbers themselves."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import check_equal, compile_plan, missing
from lqcompile.schedules.epilogue import AffineStep, ClampStep, trailing_clamps
from plans import PlanBuilder, random_affine, random_low_bit, random_quantizer

from lqcompile.graph.plan import AddValue, Clamp, Geometry, Plan
from lqcompile.target import find

TARGET = find("x86-avx2")


def residual_plan(rng: np.random.Generator, clamp: Clamp) -> Plan:
    """A layer on codes, and one that is added to it and clamped: the stream leaves, and codes for a third layer."""
    builder = PlanBuilder(rng, (32, 6, 7))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    (first,) = builder.contract(codes, random_low_bit(rng, (32, 32, 1, 1), 2, integer=True), Geometry())
    stages = (random_affine(rng, 32, 0.1), AddValue(name=first.name), clamp)
    coder = random_quantizer(rng, 2, integer=True)
    weights = random_low_bit(rng, (32, 32, 1, 1), 2, integer=True)
    stream, made = builder.contract(codes, weights, Geometry(), stages, ((None, False, ()), (coder, False, ())))
    return builder.finish(
        stream, *builder.contract(made, random_low_bit(rng, (8, 32, 1, 1), 1, integer=True), Geometry())
    )


def test_only_clamps_at_the_end_to_float32_numbers_follow_the_rounding() -> None:
    relu, short, uneven = (ClampStep(low=low, high=high) for low, high in ((0.0, np.inf), (-1.5, 6.0), (0.1, 6.0)))
    assert trailing_clamps((relu, AffineStep(), relu, short)) == [relu, short]
    assert trailing_clamps((AffineStep(), uneven)) == []
    assert trailing_clamps((uneven, relu)) == [relu]
    assert trailing_clamps((relu, AffineStep())) == []


@pytest.mark.skipif(bool(missing(TARGET)), reason=f"this machine lacks {missing(TARGET)}")
def test_a_clamp_to_no_float32_number_comes_before_the_rounding() -> None:
    rng = np.random.default_rng(1)
    plan = residual_plan(rng, Clamp(low=0.1, high=1 / 3))
    compiled = compile_plan(plan, TARGET)
    check_equal(plan, compiled.load(), rng.normal(size=(2, 32, 6, 7)).astype(np.float32))
