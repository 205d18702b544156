"""The Relax form of a program runs every step, in order, on the tensors that the program says."""

import numpy as np
import pytest
import tvm_ffi
from plans import small_network
from tvm import relax

from lqcompile.lowering.lower import lower
from lqcompile.lowering.program import to_relax
from lqcompile.target import find


@pytest.mark.parametrize("seed", range(2))
def test_every_step_is_a_call(seed: int) -> None:
    program = lower(small_network(np.random.default_rng(seed), integer=bool(seed)), find("x86-avx512-vnni"))
    module, keys = to_relax(program)
    relax.analysis.well_formed(module)  # raises where it is not
    calls = [
        binding
        for block in module["main"].body.blocks
        for binding in block.bindings
        if isinstance(binding.value, relax.Call) and binding.value.op.name == "relax.call_tir"
    ]
    for step, call in zip(program.steps, calls, strict=True):
        # Equal functions are one, under the name of the first.
        assert tvm_ffi.structural_equal(module[call.value.args[0]].body, step.function.body, map_free_vars=True)
        arguments = list(call.value.args[1].fields)
        inputs = [keys.get(item.name, item.name) for item in arguments[: len(step.inputs)]]
        assert inputs == list(step.inputs)
        for constant, item in zip(step.constants, arguments[len(step.inputs) :], strict=True):
            np.testing.assert_array_equal(item.value.numpy(), constant)
        if len(step.outputs) == 1:
            assert keys[call.var.name] == step.outputs[0].key
