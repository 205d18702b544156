"""The integer form in ONNX Runtime equals the NumPy reference bit for bit."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from plans import (
    PlanBuilder,
    random_affine,
    random_int8,
    random_leaky,
    random_low_bit,
    random_quantizer,
    random_uniform,
    single_layer,
    small_network,
)

from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import AddValue, AveragePool, Clamp, Copy, Geometry, HardSwish, MaxPool, MultiplyValue, Plan
from lqcompile.graph.specs import Int8Weights, UniformQuantizer
from lqcompile.integer_form import integer_form, integers_output, value_output
from lqcompile.reference import execute, execute_region, graph_outputs


def run(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, {"x": x}), strict=True))


def assert_equal_everywhere(plan: Plan, x: np.ndarray, inexact: frozenset[str] = frozenset()) -> None:
    """Every value, integer and output but those in `inexact`, which are close."""
    model = integer_form(plan, expose=True)
    onnx.checker.check_model(model, full_check=True)
    found, expected = run(model, x), execute(plan, {"x": x})
    exact = 0
    for region in plan.regions:
        integers, outputs = execute_region(plan, region, expected)
        if integers is not None:
            assert found[integers_output(region.name)].dtype == np.int32
            assert np.array_equal(found[integers_output(region.name)], integers), region.name
            exact += 1
        for name, array in outputs.items():
            assert found[value_output(name)].dtype == array.dtype
            if name in inexact:
                np.testing.assert_allclose(found[value_output(name)], array, rtol=1e-4, atol=1e-4)
            else:
                assert np.array_equal(found[value_output(name)], array), (region.name, name)
    assert exact == sum(integers_output(region.name) in found for region in plan.regions)
    for (name, source, _), array in zip(plan.outputs, graph_outputs(plan, expected).values(), strict=True):
        assert source in inexact or np.array_equal(found[name], array)


def random_input(rng: np.random.Generator, plan: Plan) -> np.ndarray:
    return (rng.normal(size=(2, *plan.inputs[0].shape)) * 2).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["float bases", "offsets", "integer bases", "mixed", "uint8", "int8"])
def test_one_layer_of_random_shape(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = int(rng.integers(1, 5))
    if kind in ("uint8", "int8"):
        plan = single_layer(rng, "int8", random_uniform(rng, kind), offset=False)
    elif kind in ("float bases", "offsets"):
        offset = kind == "offsets"
        plan = single_layer(rng, "low", random_quantizer(rng, bits, offset=offset), offset=offset)
    else:
        plan = single_layer(rng, "integer", random_quantizer(rng, bits, integer=kind != "mixed"), offset=False)
    assert_equal_everywhere(plan, random_input(rng, plan))


@pytest.mark.parametrize("seed", range(4))
def test_maps_and_products(seed: int) -> None:
    rng = np.random.default_rng(seed)
    builder = PlanBuilder(rng, (5, 6, 6))
    codes = builder.quantized_input(random_uniform(rng))
    swish = HardSwish(alpha=float(rng.uniform(0.1, 0.3)), beta=float(rng.uniform(0.3, 0.6)))
    stream = builder.contract(
        codes, random_int8(rng, (7, 5, 3, 3)), Geometry(kernel=(3, 3)), (random_affine(rng, 7, 0.01), swish)
    )[0]
    mean = AveragePool(kernel=(4, 4), strides=(1, 1), pads=(0, 0, 0, 0))
    gate = builder.add(mean, (stream,), (7, 1, 1), (Clamp(low=0.0, high=1.0),))[0]
    leaky = random_leaky(rng, 7, falling=bool(seed % 2))
    gated = builder.add(Copy(), (stream,), (7, 4, 4), (leaky, MultiplyValue(name=gate.name)))[0]
    ends = builder.add(
        Copy(),
        (gated,),
        (7, 4, 4),
        (MultiplyValue(name=stream.name),),
        ((random_uniform(rng), False, (swish,)), (random_quantizer(rng, 2), False, (leaky,))),
    )
    plan = builder.finish(*ends, gated)
    assert_equal_everywhere(plan, random_input(rng, plan))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("integer", [False, True])
def test_a_network_with_8_bit_edges(integer: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = small_network(rng, integer=integer)
    softmax = plan.regions[-1].outputs[0].value.name
    assert_equal_everywhere(plan, random_input(rng, plan), frozenset({softmax}))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["low", "float"])
def test_float_contractions_are_close(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = single_layer(rng, kind, None, offset=True)
    assert_equal_everywhere(plan, random_input(rng, plan), frozenset(o.value.name for o in plan.regions[1].outputs))


@pytest.mark.parametrize("seed", range(2))
def test_float_weights_on_codes_read_their_levels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for quantizer in (random_quantizer(rng, 2), random_uniform(rng)):
        plan = single_layer(rng, "float", quantizer, offset=False)
        inexact = frozenset(output.value.name for output in plan.regions[1].outputs)
        assert_equal_everywhere(plan, random_input(rng, plan), inexact)


@pytest.mark.parametrize("seed", range(2))
def test_linear_layers_residuals_and_lone_stages(seed: int) -> None:
    rng = np.random.default_rng(seed)
    builder = PlanBuilder(rng, (9,))
    first = builder.contract(builder.quantized_input(random_uniform(rng)), random_int8(rng, (6, 9)), Geometry())[0]
    codes = builder.add(Copy(), (first,), (6,), (random_affine(rng, 6),), ((random_quantizer(rng, 3), False, ()),))[0]
    weights = random_low_bit(rng, (6, 6), 3, offset=True)
    joined = builder.contract(codes, weights, Geometry(), (random_affine(rng, 6), AddValue(name=first.name)))[0]
    plan = builder.finish(builder.add(Copy(), (joined,), (6,), (AddValue(name=codes.name),))[0])
    assert_equal_everywhere(plan, random_input(rng, plan))


@pytest.mark.parametrize("seed", range(2))
def test_pooling_alone_and_wide_layers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    builder = PlanBuilder(rng, (300, 6, 6))
    codes = builder.quantized_input(random_quantizer(rng, 4, integer=True))
    made = builder.contract(
        codes, random_low_bit(rng, (5, 300, 3, 3), 4, integer=True), Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    )[0]
    pool = MaxPool(kernel=(3, 2), strides=(2, 1), pads=(1, 0, 0, 1))
    pooled = builder.add(Copy(), (made,), (5, 3, 6), (pool,), ((random_uniform(rng, "int8"), False, ()),))[0]
    plan = builder.finish(pooled)
    assert_equal_everywhere(plan, random_input(rng, plan))


@pytest.mark.parametrize("x", [np.nan, np.inf, -np.inf, -0.0])
def test_special_inputs_get_the_same_codes(x: float) -> None:
    rng = np.random.default_rng(3)
    builder = PlanBuilder(rng, (4,))
    plan = builder.finish(builder.quantized_input(random_quantizer(rng, 2, offset=True)))
    array = np.full((1, 4), x, np.float32)
    assert np.array_equal(
        run(integer_form(plan), array)["out0"], graph_outputs(plan, execute(plan, {"x": array}))["out0"]
    )


def test_without_expose_only_the_outputs_of_the_file_are_there() -> None:
    plan = small_network(np.random.default_rng(0), integer=True)
    assert [output.name for output in integer_form(plan).graph.output] == ["out0", "out1", "out2"]


def test_sums_beyond_int32_are_refused() -> None:
    rng = np.random.default_rng(0)
    weights = Int8Weights(values=np.full((1, 1, 300, 300), 127, np.int8), scale=np.ones(1, np.float32))
    quantizer = UniformQuantizer(name="q", scale=np.float32(1), zero_point=0, dtype="uint8")
    builder = PlanBuilder(rng, (1, 300, 300))
    codes = builder.quantized_input(quantizer)
    plan = builder.finish(builder.contract(codes, weights, Geometry(kernel=(300, 300)))[0])
    message = (
        r"^node 'region1' \(Contraction\): its integer sums may reach 2914650000, expected at most 2147483647 "
        r"\(int32\); use narrower bases or fewer input channels$"
    )
    with pytest.raises(UnsupportedError, match=message):
        integer_form(plan)
