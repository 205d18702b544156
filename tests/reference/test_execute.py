"""The executed plan against a plain float64 evaluation of what it means, and against values worked out by hand."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from plans import (
    PlanBuilder,
    random_float,
    random_int8,
    random_low_bit,
    random_quantizer,
    random_uniform,
    single_layer,
    small_network,
)

from lqcompile.errors import InputError
from lqcompile.graph.plan import (
    AddValue,
    Affine,
    AveragePool,
    Clamp,
    Contraction,
    Copy,
    Geometry,
    HardSwish,
    Leaky,
    MaxPool,
    MultiplyValue,
    Region,
    Softmax,
    is_integer,
)
from lqcompile.graph.specs import LowBitWeights, Quantizer, UniformQuantizer
from lqcompile.reference import execute, execute_region, graph_outputs
from lqcompile.reference.direct import conv2d_float64
from lqcompile.reference.epilogue import apply_stages, combine_planes, max_pool, scale_integers
from lqcompile.reference.execute import average_pool
from lqcompile.reference.values import dequantize, quantize


def contraction_of(region: Region) -> Contraction:
    assert isinstance(region.operation, Contraction)
    return region.operation


def random_input(rng: np.random.Generator, shape: tuple[int, ...], samples: int = 3) -> np.ndarray:
    return (rng.normal(size=(samples, *shape)) * 2).astype(np.float32)


KINDS = ["float bases", "offsets", "integer bases", "mixed", "int8 on uint8", "int8 on int8", "weight only", "float"]


def layer(rng: np.random.Generator, kind: str):
    bits = int(rng.integers(1, 5))
    if kind == "float bases":
        return single_layer(rng, "low", random_quantizer(rng, bits), offset=False)
    if kind == "offsets":
        return single_layer(rng, "low", random_quantizer(rng, bits, offset=True), offset=True)
    if kind == "integer bases":
        return single_layer(rng, "integer", random_quantizer(rng, bits, integer=True), offset=False)
    if kind == "mixed":
        return single_layer(rng, "integer", random_quantizer(rng, bits), offset=False)
    if kind.startswith("int8"):
        return single_layer(rng, "int8", random_uniform(rng, kind.split()[-1]), offset=False)
    return single_layer(rng, "low" if kind == "weight only" else "float", None, offset=True)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind", KINDS)
def test_a_contraction_means_the_convolution_of_the_real_values(kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    plan = layer(rng, kind)
    values = execute(plan, {"x": random_input(rng, plan.inputs[0].shape)})
    region = plan.regions[1]
    contraction = contraction_of(region)
    source = plan.values[region.inputs[0]]
    real = values[source.name].astype(np.float64)
    if isinstance(source.quantizer, Quantizer):
        levels = source.quantizer.offset + source.quantizer.scale * sum(
            source.quantizer.basis[j].astype(np.float64) * (source.quantizer.codes >> j & 1)
            for j in range(source.quantizer.bits)
        )
        real = levels[values[source.name]]
    elif isinstance(source.quantizer, UniformQuantizer):
        real = (real - source.quantizer.zero_point) * float(source.quantizer.scale)
    weights = contraction.weights
    kernels = weights.dequantize().astype(np.float64)
    if isinstance(weights, LowBitWeights):
        signs = 2.0 * weights.bits_array() - 1.0
        kernels = np.einsum("oi,oim->om", weights.basis.astype(np.float64), signs) * weights.scale[:, None]
        kernels = (kernels + weights.offset[:, None]).reshape(weights.shape)
    y = apply_stages(conv2d_float64(real, kernels, contraction.geometry), region.stages, {})
    found = values[region.outputs[0].value.name]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, y, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_integers_are_the_plane_sums_or_their_total(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for kind in ("integer bases", "offsets"):
        plan = layer(rng, kind)
        region = plan.regions[1]
        contraction = contraction_of(region)
        weights, quantizer = contraction.weights, plan.values[region.inputs[0]].quantizer
        assert isinstance(weights, LowBitWeights) and isinstance(quantizer, Quantizer)
        values = execute(plan, {"x": random_input(rng, plan.inputs[0].shape)})
        integers, outputs = execute_region(plan, region, values)
        assert integers is not None
        assert all(np.array_equal(outputs[name], values[name]) for name in outputs)
        whole = (2, 3) if not is_integer(contraction, quantizer) else ()
        assert integers.shape[1:] == ((weights.bits, quantizer.bits) if whole else ()) + contraction.out_shape


@pytest.mark.parametrize("slope", [0.2, -0.3, 1.7])
def test_maps_are_what_they_are_called(slope: float) -> None:
    """Against the case by case definitions of ONNX."""
    x = np.concatenate([np.linspace(-7, 7, 141), [-3.0, 3.0, 0.0, -1e30, 1e30]]).reshape(1, 2, -1)
    leaky = Leaky(slope=np.array([slope, 0.5]))
    expected = np.where(x < 0, x * np.array([slope, 0.5])[:, None], x)
    np.testing.assert_array_equal(apply_stages(x, (leaky,), {}), expected)
    swish = HardSwish(alpha=1 / 6, beta=0.5)
    expected = np.where(x <= -3, 0.0, np.where(x >= 3, x, x * (x / 6 + 0.5)))
    np.testing.assert_allclose(apply_stages(x, (swish,), {}), expected, rtol=1e-15, atol=1e-15)
    factors = {"same": np.float32(x[..., ::-1]), "channels": np.float32([[2.0, -3.0]])}
    same = apply_stages(x, (MultiplyValue(name="same"),), factors)
    np.testing.assert_array_equal(same, x * factors["same"])
    per_channel = apply_stages(x, (MultiplyValue(name="channels"),), factors)
    np.testing.assert_array_equal(per_channel, x * np.array([2.0, -3.0])[:, None])


def test_combination_rounds_each_product_and_sum_once_in_order() -> None:
    rng = np.random.default_rng()
    sums = rng.integers(-500, 500, (1, 2, 2, 1, 1, 1))
    window, valid = rng.integers(0, 500, (1, 2, 1, 1, 1)), rng.integers(-500, 500, (2, 1, 1, 1))
    count = rng.integers(0, 500, (1, 1))
    v, u, w0, a0 = rng.normal(size=(1, 2)), rng.normal(size=2), rng.normal(size=1), float(rng.normal())

    def inner(row: list[int]) -> float:
        return float((u[0] * row[0] + u[1] * row[1]) + a0 * row[2])

    rows = [[*(int(s) for s in sums[0, i, :, 0, 0, 0]), int(valid[i, 0, 0, 0])] for i in range(2)]
    last = [int(window[0, 0, 0, 0, 0]), int(window[0, 1, 0, 0, 0]), int(count[0, 0])]
    expected = (v[0, 0] * inner(rows[0]) + v[0, 1] * inner(rows[1])) + w0[0] * inner(last)
    found = combine_planes(sums, v, u, weight_offset=(w0, window), act_offset=(a0, valid, count))
    assert found.item() == expected, f"{v=} {u=} {w0=} {a0=} {sums=}"


@pytest.mark.parametrize("seed", range(3))
def test_integer_totals_are_multiplied_by_one_rounded_scale(seed: int) -> None:
    rng = np.random.default_rng(seed)
    total = rng.integers(-(2**31), 2**31, (1, 3, 1, 1))
    weight_scale = rng.uniform(0.001, 1, 3).astype(np.float32)
    act_scale = float(np.float32(rng.uniform(0.001, 1)))
    found = scale_integers(total, weight_scale, act_scale).ravel()
    for value, integer, scale in zip(found, total.ravel(), weight_scale, strict=True):
        assert value == float(Fraction(int(integer)) * Fraction(float(scale)) * Fraction(act_scale))


def test_stages_follow_in_order_and_round_separately() -> None:
    x = np.array([[[[-1.5, 0.1], [3.0, 0.7]]]])
    stages = (Affine(scale=np.array([3.0]), shift=np.array([0.1])), Clamp(low=0.0, high=2.0), AddValue(name="r"))
    added = np.array([1.0, 2.0, 3.0, 4.0], np.float32).reshape(1, 4)
    found = apply_stages(x, stages, {"r": added})
    assert found.ravel().tolist() == [0.0 + 1.0, (0.1 * 3.0 + 0.1) + 2.0, 2.0 + 3.0, 2.0 + 4.0]


def test_max_pool_leaves_out_positions_beyond_the_image() -> None:
    x = -np.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    found = max_pool(x, MaxPool(kernel=(2, 2), strides=(2, 2), pads=(1, 1, 0, 0)))
    assert found.tolist() == [[[[-1.0, -2.0], [-4.0, -5.0]]]]


@pytest.mark.parametrize(
    ("include", "expected"), [(False, [[1.0, 2.5], [5.5, 7.0]]), (True, [[0.25, 1.25], [2.75, 7.0]])]
)
def test_average_pool_divides_by_what_it_counts(include: bool, expected: list[list[float]]) -> None:
    x = np.arange(1.0, 10.0, dtype=np.float32).reshape(1, 1, 3, 3)
    pool = AveragePool(kernel=(2, 2), strides=(2, 2), pads=(1, 1, 0, 0), count_include_pad=include)
    assert average_pool(x, pool)[0, 0].tolist() == expected


def test_uniform_quantizer_rounds_half_to_even_and_saturates() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, 1000.0, -1000.0], np.float32)
    unsigned = UniformQuantizer(name="q", scale=np.float32(1), zero_point=10, dtype="uint8")
    assert quantize(x, unsigned).tolist() == [10, 12, 12, 10, 255, 0]
    assert dequantize(quantize(x, unsigned), unsigned).tolist() == [0, 2, 2, 0, 245, -10]
    signed = UniformQuantizer(name="q", scale=np.float32(1), zero_point=-10, dtype="int8")
    assert quantize(x, signed).tolist() == [-10, -8, -8, -10, 127, -128]


def test_softmax_of_two_equal_values_is_a_half() -> None:
    builder = PlanBuilder(np.random.default_rng(0), (2,))
    plan = builder.finish(builder.add(Softmax(), (builder.input,), (2,))[0])
    assert execute(plan, {"x": np.full((1, 2), 80, np.float32)})["v0"].tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("integer", [False, True])
def test_samples_do_not_depend_on_each_other(seed: int, integer: bool) -> None:
    rng = np.random.default_rng(seed)
    plan = small_network(rng, integer=integer)
    x = random_input(rng, (3, 12, 12), samples=4)
    whole = graph_outputs(plan, execute(plan, {"x": x}))
    assert set(whole) == {"out0", "out1", "out2"}
    for n in range(4):
        one = graph_outputs(plan, execute(plan, {"x": x[n : n + 1]}))
        assert all(np.array_equal(one[name][0], whole[name][n]) for name in ("out0", "out2"))


def test_a_graph_output_that_is_stored_as_codes_is_given_as_levels() -> None:
    rng = np.random.default_rng(5)
    quantizer = random_quantizer(rng, 2)
    builder = PlanBuilder(rng, (4,))
    plan = builder.finish(builder.add(Copy(), (builder.input,), (4,), (), ((quantizer, False, ()),))[0])
    values = execute(plan, {"x": random_input(rng, (4,))})
    assert values["v0"].dtype == np.uint8
    assert np.array_equal(graph_outputs(plan, values)["out0"], quantizer.levels[values["v0"]])


def test_linear_layers_take_a_flat_input() -> None:
    rng = np.random.default_rng(6)
    for source, weights in (
        (random_quantizer(rng, 2), random_low_bit(rng, (3, 7), 2)),
        (random_uniform(rng), random_int8(rng, (3, 7))),
        (None, random_float(rng, (3, 7))),
    ):
        builder = PlanBuilder(rng, (7,))
        plan = builder.finish(builder.contract(builder.quantized_input(source), weights, Geometry())[0])
        values = execute(plan, {"x": random_input(rng, (7,))})
        real = values["v0"] if source is None else dequantize(values["v0"], source)
        np.testing.assert_allclose(values["v1"], real @ weights.dequantize().T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"^input 'x': missing, found \[\]; pass every graph input by name$"),
        (
            {"x": np.zeros((2, 4, 1), np.float32)},
            r"^input 'x': found float32\[2, 4, 1\], expected float32\[N, 4\]; convert the array$",
        ),
        ({"x": np.zeros((2, 4))}, r"^input 'x': found float64\[2, 4\], expected float32\[N, 4\]; convert the array$"),
    ],
)
def test_wrong_inputs_are_refused(inputs: dict[str, np.ndarray], message: str) -> None:
    builder = PlanBuilder(np.random.default_rng(0), (4,))
    plan = builder.finish(builder.quantized_input(None))
    with pytest.raises(InputError, match=message):
        execute(plan, inputs)
