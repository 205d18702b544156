"""Kernels for GPUs, run thread by thread on the CPU (tests/gpu), against the NumPy reference: equal, code for code.

The CUDA C is the very text that NVRTC gets, but for functions that are inline PTX; those are written a second time
after the PTX ISA (tests/gpu/emulation.h).
"""

from __future__ import annotations

import sys
from pathlib import Path

import emulated_gpu
import numpy as np
import pytest
from compiling import check_equal
from plans import random_affine, random_geometry, random_low_bit, random_quantizer, small_network

from lqcompile.graph.plan import Contraction, Geometry, MaxPool
from lqcompile.lowering.choose import serving
from lqcompile.target import find

sys.path.append(str(Path(__file__).parents[1] / "schedules"))
from test_operators import Sampled, every_family, tails

TARGET = find("cuda-h200")

SQUARE = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))


@pytest.mark.parametrize("channels", [33, 70])
def test_every_family_equals_the_reference(gpu: emulated_gpu.Driver, channels: int) -> None:
    plan, families, x = every_family(np.random.default_rng([7, channels]), channels, TARGET.name)
    for region in plan.regions:
        if isinstance(region.operation, Contraction):
            offered = serving(region.operation, plan.values[region.inputs[0]].quantizer, TARGET.name)
            if families[region.name] not in offered:  # more pairs of planes than tensor cores have registers for
                families[region.name] = "popcount"
    assert {"popcount", "dot8", "b1mma"} <= set(families.values())
    check_equal(plan, emulated_gpu.load_plan(plan, TARGET, families), x)


def test_what_follows_a_contraction_equals_the_reference(gpu: emulated_gpu.Driver) -> None:
    plan, x = tails(np.random.default_rng(5))
    families = {"region2": "popcount", "region7": "popcount"}
    check_equal(plan, emulated_gpu.load_plan(plan, TARGET, families), x)


def test_tiles_of_tensor_cores_equal_the_reference(gpu: emulated_gpu.Driver) -> None:
    """Each size of tile; words that are copied by 16, 8 and 4 bytes; a depth that ends within a step; pooling."""
    rng = np.random.default_rng(2)
    cases = [((2, 2), 64, True, 128, ()), ((1, 1), 100, False, 70, (SQUARE,)), ((3, 2), 33, False, 60, ())]
    ends, families = [], {}
    builder = Sampled(rng, (128, 6, 7))
    for bits, outputs, integer, channels, stages in cases:
        codes = builder.quantized_input(random_quantizer(rng, bits[1], integer=integer, offset=True))
        geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1), strides=(2, 1) if bits[0] == 3 else (1, 1))
        if channels < 128:
            narrow = random_low_bit(rng, (channels, 128, 1, 1), 1, integer=integer)
            coder = random_quantizer(rng, bits[1], integer=integer, offset=True)
            codes = builder.contract(codes, narrow, Geometry(), (), ((coder, False, ()),))[0]
        weights = random_low_bit(rng, (outputs, channels, 3, 3), bits[0], integer=integer, offset=True)
        following = random_quantizer(rng, 2)
        ends += builder.contract(
            codes, weights, geometry, (random_affine(rng, outputs, 0.2), *stages), ((following, False, ()),)
        )
        families[builder.regions[-1].name] = "b1mma"
    plan = builder.finish(*ends)
    check_equal(plan, emulated_gpu.load_plan(plan, TARGET, families), builder.held["x"])


@pytest.mark.parametrize(("integer", "edges"), [(True, "int8"), (False, "float")])
def test_networks_equal_the_reference(gpu: emulated_gpu.Driver, integer: bool, edges: str) -> None:
    rng = np.random.default_rng(5)
    plan = small_network(rng, integer=integer, edges=edges)
    x = rng.normal(size=(3, *plan.inputs[0].shape)).astype(np.float32)
    model = emulated_gpu.load_plan(plan, TARGET)
    check_equal(plan, model, x, tolerance=1e-4)
    outputs = model.run({"x": x})
    for name, array in model.run({"x": x[2:]}).items():
        np.testing.assert_array_equal(array, outputs[name][2:], err_msg="a batch and one of its samples differ")


def test_weight_only_and_depthwise_layers_are_close_to_the_reference(gpu: emulated_gpu.Driver) -> None:
    rng = np.random.default_rng(3)
    builder = Sampled(rng, (40, 5, 6))
    geometry = random_geometry(rng, 40)
    falling = (random_affine(rng, 20, 0.1), SQUARE)
    low = builder.contract(
        builder.input, random_low_bit(rng, (20, 40, 1, 1), 3, offset=True), Geometry(), falling, ((None, False, ()),)
    )
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    own = builder.contract(codes, random_low_bit(rng, (40, 1, *geometry.kernel), 2, integer=True), geometry)
    plan = builder.finish(*low, *own)
    check_equal(plan, emulated_gpu.load_plan(plan, TARGET), builder.held["x"], tolerance=1e-4)
