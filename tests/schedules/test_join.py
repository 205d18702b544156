"""Concatenated codes: joined as they are packed, and layers over codes of several quantizers."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import check_equal, compile_plan, skip_unless_runnable
from plans import PlanBuilder, random_int8, random_low_bit, random_quantizer, random_uniform

from lqcompile.graph.plan import AddValue, Concat, Geometry, Plan, Value
from lqcompile.target import find

CHANNELS = (13, 3, 32, 5)
"""Of what is joined: bit planes meet inside a byte, at the end of one, and behind a whole word."""

TARGETS = ("x86-avx2", "arm-neon")
"""Joining is the same code everywhere, and the kernels around it are tested on all targets elsewhere."""

AROUND = Geometry(kernel=(3, 3), pads=(1, 0, 1, 1))


def joined_codes(rng: np.random.Generator) -> tuple[Plan, dict[str, str]]:
    """Codes of one quantizer from several layers, joined for every kind of kernel; halos of different widths."""
    builder = PlanBuilder(rng, (CHANNELS[0], 5, 4))
    families: dict[str, str] = {}
    ends: list[Value] = []
    for quantizer in (random_quantizer(rng, 2, integer=True), random_quantizer(rng, 3, offset=True)):
        sources = [builder.quantized_input(quantizer)]
        for channels in CHANNELS[1:]:
            weights = random_low_bit(rng, (channels, CHANNELS[0], 1, 1), 2)
            sources += builder.contract(sources[0], weights, Geometry(), (), ((quantizer, False, ()),))
        joined = join(builder, sources)
        for family in ("popcount", "dot8") if quantizer.integer_basis else ("popcount",):
            weights = random_low_bit(rng, (6, sum(CHANNELS), 3, 3), 2, integer=quantizer.integer_basis, offset=True)
            ends += builder.contract(joined, weights, AROUND)
            families[builder.regions[-1].name] = family
    coder = random_uniform(rng, "int8")
    image = builder.quantized_input(coder)
    joined = join(builder, [image, image])
    ends += builder.contract(joined, random_int8(rng, (3, 2 * CHANNELS[0], 3, 3)), AROUND)
    return builder.finish(*ends), families


def join(builder: PlanBuilder, sources: list[Value]) -> Value:
    shape = (sum(value.shape[0] for value in sources), *sources[0].shape[1:])
    ends = ((sources[0].quantizer, False, ()),)
    return builder.add(Concat(of_codes=True), tuple(sources), shape, (), ends)[0]


@pytest.mark.parametrize("name", TARGETS)
def test_joined_codes_equal_the_reference(name: str) -> None:
    target = find(name)
    skip_unless_runnable(target)
    rng = np.random.default_rng(TARGETS.index(name))
    plan, families = joined_codes(rng)
    x = rng.normal(size=(2, *plan.inputs[0].shape)).astype(np.float32)
    check_equal(plan, compile_plan(plan, target, families).load(), x)


@pytest.mark.parametrize("name", TARGETS)
def test_parts_of_a_sum_equal_the_reference(name: str) -> None:
    """The first part of a sum is added to by the next, whose outputs are codes of the whole."""
    target = find(name)
    skip_unless_runnable(target)
    rng = np.random.default_rng(TARGETS.index(name))
    builder = PlanBuilder(rng, (7, 6, 6))
    first = builder.quantized_input(random_quantizer(rng, 2, offset=True))
    second = builder.quantized_input(random_quantizer(rng, 3, integer=True))
    part = builder.contract(first, random_low_bit(rng, (9, 7, 3, 3), 2, offset=True), AROUND)[0]
    ends = ((random_quantizer(rng, 2), False, ()), (None, False, ()))
    weights = random_low_bit(rng, (9, 7, 3, 3), 2, integer=True)
    plan = builder.finish(*builder.contract(second, weights, AROUND, (AddValue(name=part.name),), ends))
    x = rng.normal(size=(2, 7, 6, 6)).astype(np.float32)
    check_equal(plan, compile_plan(plan, target).load(), x)
