"""Contractions whose integer sum is compared directly: one plane pair, with and without integer bases."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import X86, check_equal, compile_plan, missing
from plans import PlanBuilder, random_affine, random_low_bit, random_quantizer

from lqcompile.graph.plan import Clamp, Geometry, MaxPool, Plan, Stage
from lqcompile.target import find


def one_pair_plan(rng: np.random.Generator, *, integer: bool, pooled: bool) -> Plan:
    """A W1A1 layer with affine maps of both signs, perhaps a fused max-pooling, and a reader of its codes."""
    builder = PlanBuilder(rng, (int(rng.integers(1, 40)), 9, 11))
    codes = builder.quantized_input(random_quantizer(rng, 1, integer=integer))
    outputs = int(rng.integers(1, 40))
    weights = random_low_bit(rng, (outputs, codes.shape[0], 3, 3), 1, integer=integer)
    pool: tuple[Stage, ...] = (MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0)),) if pooled else ()
    stages = (random_affine(rng, outputs, 0.1), *pool, random_affine(rng, outputs), Clamp(low=0.0, high=np.inf))
    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    following = random_quantizer(rng, 2, integer=integer)
    hidden = builder.contract(codes, weights, around, stages, ((following, False, ()),))[0]
    last = random_low_bit(rng, (7, outputs, 1, 1), 2, integer=integer)
    return builder.finish(*builder.contract(hidden, last, Geometry()))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_one_pair_is_compared_as_an_integer(seed: int, integer: bool, pooled: bool) -> None:
    target = next((find(name) for name in reversed(X86) if not missing(find(name))), None)
    if target is None:
        pytest.skip("this machine runs no x86 target")
    rng = np.random.default_rng(seed)
    plan = one_pair_plan(rng, integer=integer, pooled=pooled)
    compiled = compile_plan(plan, target, {region.name: "popcount" for region in plan.regions[1:]})
    x = 20 * rng.normal(size=(2, *plan.inputs[0].shape)).astype(np.float32)
    check_equal(plan, compiled.load(), x)
