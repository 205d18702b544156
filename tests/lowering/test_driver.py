"""The driver: constants stored once, memory planned, and every region a range of steps."""

from __future__ import annotations

import numpy as np
import pytest
from compiling import X86, compile_plan, missing
from plans import PlanBuilder, random_affine, random_low_bit, random_quantizer, small_network

from lqcompile.graph.plan import Geometry
from lqcompile.lowering.driver import Parameters, lower_program
from lqcompile.lowering.lower import lower
from lqcompile.lowering.memory import ALIGNMENT
from lqcompile.runtime import _ports
from lqcompile.target import find

AVX2 = find("x86-avx2")


def test_equal_constants_are_stored_once() -> None:
    parameters = Parameters()
    first = parameters.add(np.arange(5, dtype=np.int32))
    second = parameters.add(np.ones(40, np.float64))
    assert (first, second, parameters.add(np.arange(5, dtype=np.int32))) == (0, ALIGNMENT, 0)
    block = parameters.tobytes()
    assert len(block) == parameters.size == ALIGNMENT + 320
    np.testing.assert_array_equal(np.frombuffer(block, np.int32, 5), np.arange(5))
    assert Parameters().tobytes() == bytes(ALIGNMENT)


@pytest.mark.parametrize("seed", range(2))
def test_regions_are_ranges_of_steps_and_tensors_have_places(seed: int) -> None:
    plan = small_network(np.random.default_rng(seed), integer=bool(seed))
    program = lower(plan, AVX2)
    module, driver = lower_program(program)
    names = [name for name, _, _ in driver.regions]
    assert names[: len(plan.regions)] == [region.name for region in plan.regions]
    assert names[len(plan.regions) :] == [tensor.key for tensor in program.outputs]
    ends = [last for _, _, last in driver.regions]
    assert [first for _, first, _ in driver.regions] == [0, *ends[:-1]]
    assert ends[-1] == len(program.steps)
    for name, first, last in driver.regions:
        assert {step.region for step in program.steps[first:last]} == {name}
    made = {tensor.key: tensor for step in program.steps for tensor in step.outputs}
    assert driver.offsets.keys() == made.keys() - {tensor.key for tensor in program.outputs}
    for key, offset in driver.offsets.items():
        size = made[key].size * np.dtype(made[key].dtype).itemsize
        assert offset % ALIGNMENT == 0 and offset + size <= driver.arena_bytes
    # Steps of equal functions share one.
    steps = {step.name for step in program.steps}
    functions = {var.name_hint for var in module.functions}
    assert "main" in functions and functions - {"main"} <= steps
    sums = {kernel.step.name for kernel in program.sums}
    kernels = {var.name_hint for var in driver.module.functions} - {"run", "sums"}
    assert functions - {"main"} <= kernels <= (functions - {"main"}) | sums


def test_equal_kernels_of_sums_share_a_function() -> None:
    rng = np.random.default_rng(4)
    builder = PlanBuilder(rng, (8, 5, 5))
    geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    codes = builder.quantized_input(random_quantizer(rng, 2))
    ends = []
    for bits in (2, 2, 1):
        ends += builder.contract(codes, random_low_bit(rng, (8, 8, 3, 3), bits), geometry, (random_affine(rng, 8),))
    plan = builder.finish(*ends)
    program = lower(plan, AVX2)
    names = [kernel.step.name for kernel in program.sums]
    _, driver = lower_program(program)
    functions = {var.name_hint for var in driver.module.functions}
    assert len(names) == 3 and functions & set(names) == {names[0], names[2]}


def test_layers_with_the_same_weights_share_them() -> None:
    rng = np.random.default_rng(3)
    builder = PlanBuilder(rng, (8, 4, 4))
    codes = builder.quantized_input(random_quantizer(rng, 2))
    weights, scale = random_low_bit(rng, (8, 8, 1, 1), 2), random_affine(rng, 8)
    sizes = []
    ends = []
    for _ in range(2):
        ends += builder.contract(codes, weights, Geometry(), (scale,))
        sizes.append(len(lower_program(lower(builder.finish(*ends), AVX2))[1].parameters))
    assert sizes[0] == sizes[1]


@pytest.mark.skipif(bool(missing(AVX2)), reason="this CPU does not run x86-avx2")
def test_a_call_runs_only_the_steps_asked_for() -> None:
    rng = np.random.default_rng(4)
    builder = PlanBuilder(rng, (4, 3, 3))
    plan = builder.finish(builder.quantized_input(random_quantizer(rng, 2)))
    model = compile_plan(plan, find(X86[0])).load()
    x = rng.normal(size=(1, 4, 3, 3)).astype(np.float32)
    output = np.full((1, 4, 3, 3), 7, np.float32)
    last = model.variant["steps"]
    model._run(*_ports([x, output]), *model._memory, 0, last - 1)
    assert (output == 7).all()
    model._run(*_ports([x, output]), *model._memory, last - 1, last)
    np.testing.assert_array_equal(output, next(iter(model.run({"x": x}).values())))
