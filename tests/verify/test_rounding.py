"""The bounds hold for what ONNX Runtime computes, are tight enough to mean something, and decide what may differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes import Arrays, ReferenceModel
from models import Builder, chain_model, classifier_model, conv_model, random_input, residual_model
from onnx import numpy_helper
from plans import PlanBuilder, random_affine, random_float, random_low_bit, random_quantizer, random_uniform

from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import fuse
from lqcompile.graph.plan import Geometry, MaxPool, Plan, Softmax, Value
from lqcompile.graph.rewrite import simplify
from lqcompile.graph.specs import Quantizer, UniformQuantizer
from lqcompile.graph.translate import to_flow
from lqcompile.reference import execute_region
from lqcompile.reference.sums import convolve
from lqcompile.verify import rounding, verify
from lqcompile.verify.compare import compare_bits, compare_within
from lqcompile.verify.inexact import float_bound, is_exact_region
from lqcompile.verify.sessions import open_session
from lqcompile.verify.stock import StockFile, StockTensors, wanted_tensors


def activated_model(rng: np.random.Generator) -> onnx.ModelProto:
    """Every map, and both products, between a float layer and quantizers."""
    builder = Builder(rng, (3, 8, 8)).quantize8().conv8(8).activation("HardSwish")
    image = builder.value
    gate = builder.global_average_pool().activation("HardSigmoid").value
    builder.at(image).multiply(gate).activation("LeakyRelu").quantize(2).conv(8).activation("PRelu").multiply(image)
    return builder.quantize(2).conv(6).activation("HardSigmoid", alpha=0.3).quantize(3).conv(4).build()


MODELS = {
    "activations": activated_model,
    "float bases": lambda rng: chain_model(rng, channels=(40, 24, 8), weight_bits=3, act_bits=3),
    "residual": residual_model,
    "8-bit edges": classifier_model,
    "offsets": lambda rng: conv_model(rng, weight_offset=True, act_offset=-0.3, batch_norm=True, out_bits=2),
    "everything": lambda rng: conv_model(
        rng, channels=(32, 16), batch_norm=True, residual=True, relu=True, max_pool=True, out_bits=3
    ),
}


def opened(path: Path, feeds: Arrays) -> tuple[Plan, StockTensors]:
    """The plan of a file, and its tensors for some samples."""
    checked = load_checked(path)
    flow = simplify(to_flow(checked))
    plan = fuse(flow)
    session = open_session(onnx.load(path), wanted_tensors(flow))
    return plan, StockTensors(StockFile(plan, flow, checked), {**feeds, **session.run(feeds)})


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("kind", MODELS)
def test_stock_tensors_are_within_the_bound_of_exact_arithmetic(kind: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    model = MODELS[kind](rng)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    plan, stock = opened(path, random_input(rng, model, batch=3))
    compared = 0
    for region in plan.regions:
        if not is_exact_region(plan, region):
            continue
        values = {name: stock.logical(plan.values[name]) for name in (*region.inputs, *region.residuals)}
        for output in region.outputs:
            plain = replace(output, value=replace(output.value, quantizer=None, decoded=False))
            _, found = execute_region(plan, replace(region, outputs=(plain,)), values)
            x, error = stock.before_quantizer(output.value), stock.error((region,), output.value)
            distance = np.abs(found[output.value.name].astype(np.float64) - x)
            assert (distance <= error).all(), (region.name, float((distance - error).max()))
            assert error.max() < 2e-4 * max(1.0, float(np.abs(x).max())), region.name
            compared += distance.size
    assert compared > 100


@pytest.mark.parametrize("seed", range(3))
def test_float_layers_are_within_their_bound_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    builder = PlanBuilder(rng, (16, 8, 8))
    geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    pool = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    for weights in (random_float(rng, (6, 16, 3, 3)), random_low_bit(rng, (6, 16, 3, 3), 3, offset=True)):
        builder.contract(builder.input, weights, geometry, (random_affine(rng, 6), pool, random_affine(rng, 6)))
    plan = builder.finish(builder.input)
    x = rng.normal(size=(2, 16, 8, 8)).astype(np.float32)
    for region in plan.regions:
        _, found = execute_region(plan, region, {"x": x})
        exact, limit = float_bound(plan, region, region.outputs[0], {"x": x})
        distance = np.abs(found[region.outputs[0].value.name] - exact)
        assert (distance <= limit / 2).all()
        assert distance.max() > 0
        assert limit.max() < 1e-3 * np.abs(exact).max()


def test_softmax_is_within_its_bound() -> None:
    rng = np.random.default_rng()
    builder = PlanBuilder(rng, (10,))
    plan = builder.finish(builder.add(Softmax(), (builder.input,), (10,))[0])
    x = (rng.normal(size=(50, 10)) * 10).astype(np.float32)
    _, found = execute_region(plan, plan.regions[0], {"x": x})
    exact, limit = float_bound(plan, plan.regions[0], plan.regions[0].outputs[0], {"x": x})
    assert (np.abs(found["v0"] - exact) <= limit / 2).all(), x


@pytest.mark.parametrize("seed", range(3))
def test_errors_of_the_input_pass_through_a_contraction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    geometry = Geometry(kernel=(3, 3), pads=(1, 0, 1, 0), strides=(2, 1), group=2)
    weights = random_float(rng, (4, 3, 3, 3))
    builder = PlanBuilder(rng, (6, 7, 7))
    builder.contract(builder.input, weights, geometry)
    contraction = builder.regions[0].operation
    x = rng.normal(size=(2, 6, 7, 7)).astype(np.float32)
    error = rng.uniform(0, 0.1, x.shape)
    moved = (x + error * rng.choice([-1, 1], x.shape)).astype(np.float64)
    kernels = weights.values.astype(np.float64)
    distance = np.abs(convolve(moved, kernels, geometry) - convolve(x, kernels, geometry))
    for given in (error, np.asarray(0.1)):
        assert (distance <= rounding.contraction_error(contraction, x, given)).all()


THREE = Quantizer(
    name="q",
    thresholds=np.array([0.5, 1.5, 2.5], np.float32),
    levels=np.array([0, 1, 2, 3], np.float32),
    basis=np.array([1, 2], np.float32),
    codes=np.arange(4, dtype=np.uint8),
    offset=0.0,
    scale=1.0,
    integer_basis=False,
)


@pytest.mark.parametrize(
    ("found", "expected", "x", "allowed"),
    [
        (0, 1, 0.5000001, True),
        (1, 0, 0.4999999, True),
        (1, 0, 0.499, False),
        (0, 2, 0.5, False),
        (3, 2, 2.5, True),
        (2, 3, 1.5, False),
    ],
)
def test_a_code_may_differ_only_next_to_the_threshold_it_crosses(
    found: int, expected: int, x: float, allowed: bool
) -> None:
    value = Value(name="v", shape=(1,), quantizer=THREE)
    arrays = [np.array([[3], [code]], np.uint8) for code in (found, expected)]
    asked = []

    def bound(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(samples.tolist())
        return np.array([[x]]), np.array([[1e-6]])

    tally = compare_within(value, *arrays, bound)
    assert asked == [[1]]
    assert (tally.codes, tally.mismatches, tally.near_threshold) == (2, int(not allowed), int(allowed))


def test_8_bit_codes_may_differ_next_to_a_half_step() -> None:
    quantizer = UniformQuantizer(name="q", scale=np.float32(0.5), zero_point=10, dtype="uint8")
    value = Value(name="v", shape=(3,), quantizer=quantizer)
    found, expected = np.array([[13, 13, 13]], np.uint8), np.array([[12, 12, 11]], np.uint8)
    x = np.array([[1.25, 1.3, 1.25]])
    tally = compare_within(value, found, expected, lambda samples: (x, np.full((1, 3), 1e-6)))
    assert (tally.mismatches, tally.near_threshold) == (2, 1)


def test_levels_that_are_equal_are_the_same_code_for_the_file() -> None:
    tied = replace(
        THREE,
        thresholds=np.array([0.5, 1.0, 1.5], np.float32),
        levels=np.array([0, 1, 1, 2], np.float32),
        basis=np.array([1, 1], np.float32),
    )
    value = Value(name="v", shape=(4,), quantizer=tied)
    found, expected = np.array([[1, 2, 0, 3]], np.uint8), np.array([[1, 1, 2, 1]], np.uint8)
    x = np.array([[1.0, 1.0, 0.5, 1.5]])
    tally = compare_within(value, found, expected, lambda samples: (x, np.full((1, 4), 1e-6)))
    assert (tally.mismatches, tally.near_threshold) == (0, 2)


def test_nothing_that_is_nan_on_one_side_only_is_within_rounding() -> None:
    value = Value(name="v", shape=(3,))
    found, expected = np.array([[np.nan, np.nan, 1]], np.float32), np.array([[np.nan, 1, np.nan]], np.float32)
    tally = compare_within(value, found, expected, lambda samples: (expected, np.full((1, 3), 1.0)))
    assert (tally.floats, tally.float_mismatches) == (3, 2)
    assert compare_bits(value, found, expected).float_mismatches == 2


def test_level_error_is_the_distance_to_the_basis() -> None:
    assert rounding.level_error(THREE, THREE.levels).item() == 0.0
    off = replace(THREE, levels=np.array([0, 1, 2.25, 3], np.float32))
    assert rounding.level_error(off, off.levels).item() == 0.25
    uniform = random_uniform(np.random.default_rng(0))
    real = np.array([-3.0, 2.0], np.float32)
    assert rounding.level_error(uniform, real).item() == 3.0 * 2.0**-24


@pytest.mark.parametrize("seed", range(3))
def test_a_code_of_the_file_on_the_other_side_of_its_threshold_is_counted_and_passes(seed: int, tmp_path: Path) -> None:
    """The threshold is put onto a value that the file computes; both codes next to it are right then, by rounding."""
    rng = np.random.default_rng(seed)
    model = conv_model(rng, batch_norm=True, out_bits=2)
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    feeds = random_input(rng, model, batch=2)
    plan, stock = opened(path, feeds)
    last = plan.regions[-1]
    value = last.outputs[0].value
    assert isinstance(value.quantizer, Quantizer)
    x = stock.before_quantizer(value)
    middle = value.quantizer.thresholds[1]
    at = np.unravel_index(np.abs(x - middle).argmin(), x.shape)
    tensor = next(t for t in model.graph.initializer if t.name == model.graph.node[-1].input[1])
    moved = numpy_helper.to_array(tensor).copy()
    moved[1] = x[at]
    tensor.CopyFrom(numpy_helper.from_array(moved, tensor.name))
    onnx.save(model, path)

    plan, stock = opened(path, feeds)
    exact = ReferenceModel(path).run(feeds)
    value = plan.regions[-1].outputs[0].value
    assert isinstance(value.quantizer, Quantizer)
    assert stock.logical(value)[at] == value.quantizer.levels[1]

    def damage(name: str, outputs: Arrays) -> None:
        if name == last.name:
            outputs[value.name][at] = value.quantizer.levels[2]

    report = verify(path, ReferenceModel(path, damage), feeds)
    layer = report.layers[-1]
    assert layer.stock_file.near_threshold == 1
    assert layer.stock_file.mismatches == 0
    # Against the integer form nothing is rounding: there the code is wrong, unless it is what exact arithmetic gives.
    agrees = next(iter(exact.values()))[at] == value.quantizer.levels[2]
    assert layer.integer_form.mismatches == int(not agrees)


def test_random_quantizers_have_the_levels_of_their_basis() -> None:
    quantizer = random_quantizer(np.random.default_rng(1), 3, offset=True)
    assert 0 < rounding.level_error(quantizer, quantizer.levels) < 1e-6
