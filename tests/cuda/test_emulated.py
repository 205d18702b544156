"""Kernels for GPUs, run thread by thread on the CPU (tests/gpu), against the NumPy reference: equal, code for code.

The CUDA C is the very text that NVRTC gets, but for functions that are inline PTX; those are written a second time
after the PTX ISA (tests/gpu/emulation.h).
"""

from __future__ import annotations

import emulated_gpu
import numpy as np
import pytest
from equality import check_equal
from gpu_cases import CASES
from kept_plans import without_fewer

from lqcompile.lowering.tensor_cores import WORD_CHANNELS
from lqcompile.target import find

TARGET = find("cuda-h200")


@pytest.mark.parametrize("name", CASES)
def test_networks_equal_the_reference(gpu: emulated_gpu.Driver, name: str) -> None:
    case = CASES[name](TARGET.name)
    model = emulated_gpu.load_plan(case.plan, TARGET, case.families)
    check_equal(case.plan, model, case.x, tolerance=case.tolerance)
    whole = model.run({"x": case.x})
    for output, array in model.run({"x": case.x[1:]}).items():
        np.testing.assert_array_equal(array, whole[output][1:], err_msg="a batch and its samples differ")
    # All of these batches are small.
    assert without_fewer(model) or not set(case.families.values()) & set(WORD_CHANNELS)
    for output, array in model.run({"x": case.x}).items():
        np.testing.assert_array_equal(array, whole[output], err_msg="kernels for few and for many samples differ")


def test_every_family_is_among_the_cases() -> None:
    case = CASES["families of 70 channels"](TARGET.name)
    assert set(case.families.values()) == {"popcount", "dot8", "b1mma", "i8mma"}
