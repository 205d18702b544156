"""Passes of the ARM popcount kernels cover a tile within their registers; counters do not overflow."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compiling import check_equal, compile_plan, unavailable
from lqcompile.schedules.arm_popcount import LIMITS, groups, passes
from plans import PlanBuilder, random_low_bit, random_quantizer

from lqcompile.graph.plan import Geometry
from lqcompile.target import find


@pytest.mark.parametrize("most", [2, 4])
@pytest.mark.parametrize("seed", range(20))
def test_passes_cover_the_tile(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    weights, acts, pixels, blocks = (int(value) for value in rng.integers(1, 7, 4))
    found = set()
    for part in passes(weights, acts, pixels, blocks, most):
        assert 1 <= len(list(part)) <= most
        starts = [min(start, pixels - part.pixels) for start in range(0, pixels, part.pixels)]
        found.update((i, j, start + m, n) for start in starts for i, j, m, n in part)
    assert found == {tuple(map(int, place)) for place in np.ndindex(weights, acts, pixels, blocks)}


def test_groups_are_equal_but_for_one() -> None:
    assert groups(7, 3) == [range(2), range(2, 4), range(4, 7)]
    assert groups(4, 9) == [range(4)]


@pytest.mark.parametrize("name", ["arm-neon", "raspberry-pi-3"])
def test_counters_are_flushed_before_they_overflow(name: str) -> None:
    """All bits set, in more words than 16-bit counters take."""
    lacks = unavailable(find(name))
    if lacks:
        pytest.skip(f"this machine lacks {', '.join(lacks)}")
    inputs = 32 * (LIMITS["uint16"] + 2)
    rng = np.random.default_rng(0)
    builder = PlanBuilder(rng, (inputs,))
    codes = builder.quantized_input(random_quantizer(rng, 1, integer=True))
    weights = random_low_bit(rng, (3, inputs), 1, integer=True)
    weights = replace(weights, planes=np.full_like(weights.planes, 255))
    plan = builder.finish(*builder.contract(codes, weights, Geometry()))
    compiled = compile_plan(plan, find(name), {builder.regions[-1].name: "popcount"})
    x = np.full((1, inputs), 1e6, np.float32)
    check_equal(plan, compiled.load(), x)
