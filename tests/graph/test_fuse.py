"""Before and after: small networks and the kernels that they become, each held against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from lqcompile.graph.fuse import fold_stages
from lqcompile.graph.plan import Affine, Clamp, Contraction, Plan, is_exact, is_integer
from lqcompile.graph.rewrite import LARGEST_SCALE
from lqcompile.graph.specs import FloatWeights, Int8Weights, LowBitWeights, UniformQuantizer
from lqcompile.reference.values import dequantize, quantize
from tests.graph.planning import check_against_onnxruntime, plan_of, sketch
from tests.models import Builder, chain_model, classifier_model, residual_model


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.default_rng().integers(2**32))
    print(f"seed={seed}")  # noqa: T201
    return np.random.default_rng(seed)


def planned(model: onnx.ModelProto, rng: np.random.Generator) -> Plan:
    plan = plan_of(model)
    check_against_onnxruntime(model, plan, rng)
    return plan


# ---------------------------------------------------------------------- whole networks


@pytest.mark.parametrize(
    ("op_type", "stages"),
    [("HardSwish", "HardSwish"), ("HardSigmoid", "Affine Clamp"), ("LeakyRelu", "Leaky"), ("PRelu", "Leaky")],
)
def test_activations_join_the_convolution(rng, op_type, stages):
    model = Builder(rng, (3, 8, 8)).quantize8().conv8(6).activation(op_type).quantize(2).conv(5).build()
    before = stages.removeprefix("Affine ")  # the bias takes in the line of HardSigmoid
    assert sketch(planned(model, rng)) == [
        "Copy -> codes",
        f"Conv Affine {before} -> codes",
        "LQConv Affine -> float",
    ]


def test_hard_swish_and_max_pool_are_not_in_one_chain(rng):
    """The pool may run before or behind the other stages, which must not turn."""
    after = Builder(rng, (3, 8, 8)).quantize8().conv8(6).activation("HardSwish").max_pool().quantize(2).conv(5)
    assert sketch(planned(after.build(), rng))[1:3] == ["Conv Affine HardSwish -> float", "Copy MaxPool -> codes"]
    before = Builder(rng, (3, 8, 8)).quantize8().conv8(6).max_pool().activation("HardSwish").quantize(2).conv(5)
    assert sketch(planned(before.build(), rng))[1] == "Conv Affine MaxPool -> HardSwish codes"


def test_squeeze_and_excitation_multiplies_by_a_number_per_channel(rng):
    builder = Builder(rng, (3, 8, 8)).quantize8().conv8(8).relu()
    image = builder.value
    builder.global_average_pool().conv_float(4, kernel=1).relu().conv_float(8, kernel=1).activation("HardSigmoid")
    gate = builder.value
    builder.at(image).multiply(gate)
    model = builder.quantize(2).conv(5).build()
    assert sketch(planned(model, rng))[1:] == [
        "Conv Affine Clamp -> float",
        "AveragePool -> float",
        "Conv Affine Clamp -> float",
        "Conv Affine Clamp -> float",
        "Copy MultiplyValue -> codes",
        "LQConv Affine -> float",
    ]


def test_hard_swish_written_as_a_product(rng):
    """x * HardSigmoid(x), as ONNX defines it."""
    builder = Builder(rng, (3, 8, 8)).quantize8().conv8(6)
    x = builder.value
    builder.activation("HardSigmoid", alpha=1 / 6, beta=0.5).multiply(x)
    assert sketch(planned(builder.build(), rng))[1:] == [
        "Conv Affine -> float, Affine Clamp float",
        "Copy MultiplyValue -> float",
    ]


def test_vgg_chain_is_one_kernel_per_layer(rng):
    builder = Builder(rng, (3, 12, 12)).conv_float(8).batch_norm().relu()
    for width in (16, 8):
        builder.quantize(2).conv(width).max_pool().batch_norm().relu()
    plan = planned(builder.quantize(2).flatten().linear(5).build(), rng)
    assert sketch(plan) == [
        "Conv Affine Clamp -> codes",
        "LQConv Affine MaxPool Affine Clamp -> codes",
        "LQConv Affine MaxPool Affine Clamp -> codes",
        "LQLinear Affine -> float",
    ]


def test_chain_keeps_codes_between_layers(rng):
    plan = planned(chain_model(rng, integer=True), rng)
    assert sketch(plan) == [
        "Copy -> codes",
        "LQConv Affine Clamp -> codes",
        "LQConv Affine Clamp -> codes",
        "LQConv Affine Clamp -> float",
    ]
    for region in plan.regions[1:]:
        assert isinstance(region.operation, Contraction)
        assert is_integer(region.operation, plan.values[region.inputs[0]].quantizer)


def test_preactivation_block_keeps_a_float_stream_and_quantizes_beside_it(rng):
    builder = Builder(rng, (8, 8, 8)).conv_float(8)
    entry = builder.value
    builder.batch_norm().relu().quantize(2).conv(8).batch_norm().relu().quantize(2).conv(8).add(entry)
    entry = builder.value
    builder.batch_norm().relu()
    active = builder.value
    shortcut = builder.quantize(2).conv(16, kernel=1, stride=2).value
    builder.at(active).quantize(2).conv(16, stride=2).batch_norm().relu().quantize(2).conv(16).add(shortcut)
    plan = planned(builder.batch_norm().relu().global_average_pool().flatten().gemm_float(4).build(), rng)
    assert sketch(plan) == [
        "Conv Affine -> float, Affine Clamp codes",
        "LQConv Affine Clamp -> codes",
        "LQConv Affine AddValue -> Affine Clamp codes, Affine Clamp codes",
        "LQConv Affine -> float",
        "LQConv Affine Clamp -> codes",
        "LQConv Affine AddValue -> Affine Clamp float",
        "AveragePool -> float",
        "Gemm Affine -> float",
    ]


def test_resnet_block_with_downsampling_adds_in_the_branch_that_comes_last(rng):
    plan = planned(residual_model(rng), rng)
    assert sketch(plan) == [
        "Copy -> codes",
        "LQConv Affine Clamp -> codes",
        "LQConv Affine AddValue Clamp -> codes",
        "LQConv Affine Clamp -> codes",
        "LQConv Affine -> float",
        "LQConv Affine AddValue Clamp -> float",
    ]
    assert plan.regions[2].residuals == ("x",)
    assert plan.regions[5].residuals == (plan.regions[4].outputs[0].value.name,)


def test_int8_edges_compute_on_codes(rng):
    plan = planned(classifier_model(rng), rng)
    assert sketch(plan) == [
        "Copy -> codes",
        "Conv Affine Clamp -> codes",
        "LQConv Affine Clamp MaxPool -> float",
        "AveragePool -> codes",
        "Gemm Affine -> float",
    ]
    for region in (plan.regions[1], plan.regions[4]):
        assert isinstance(region.operation, Contraction)
        assert isinstance(region.operation.weights, Int8Weights)
        assert is_integer(region.operation, plan.values[region.inputs[0]].quantizer)


def test_googlenet_block_quantizes_each_branch_behind_the_concatenation(rng):
    builder = Builder(rng, (8, 6, 6)).quantize(2)
    codes = builder.value
    left = builder.conv(4, kernel=1).batch_norm().relu().value
    builder.at(codes).conv(8, kernel=1).batch_norm().relu().quantize(3).conv(6).batch_norm().relu().concat(left)
    joined = builder.value
    left = builder.quantize(2).conv(4, kernel=1).value
    plan = planned(builder.at(joined).quantize(2).conv(4).concat(left).build(), rng)
    assert sketch(plan) == [
        "Copy -> codes",
        "LQConv Affine Clamp -> float",
        "LQConv Affine Clamp -> codes",
        "LQConv Affine Clamp -> float",
        "Concat -> codes, codes",
        "LQConv Affine -> float",
        "LQConv Affine -> float",
        "Concat -> float",
    ]


def test_densenet_concatenation_takes_in_what_follows(rng):
    builder = Builder(rng, (4, 6, 6))
    new = builder.conv_float(4).value
    plan = planned(builder.at("x").concat(new).batch_norm().relu().quantize(2).conv(4).build(), rng)
    assert sketch(plan) == ["Conv Affine -> float", "Concat Affine Clamp -> codes", "LQConv Affine -> float"]


# ---------------------------------------------------------------------- linear layers on images


@pytest.mark.parametrize("last", ["gemm_float", "gemm8", "linear"])
def test_linear_after_flattening_becomes_a_convolution_over_the_image(rng, last):
    builder = Builder(rng, (3, 5, 4))
    if last == "gemm8":
        builder.quantize8()
    elif last == "linear":
        builder.quantize(2)
    plan = planned(getattr(builder.flatten(), last)(7).build(), rng)
    operation = plan.regions[-1].operation
    assert isinstance(operation, Contraction)
    assert operation.geometry.kernel == (5, 4)
    assert operation.weights.shape == (7, 3, 5, 4)
    assert (operation.in_shape, operation.out_shape) == ((3, 5, 4), (7, 1, 1))
    assert plan.regions[-1].stream_shape == (7,)


def test_quantizing_a_flattened_image_quantizes_the_image(rng):
    plan = planned(Builder(rng, (3, 4, 4)).conv_float(6).flatten().relu().quantize(2).linear(5).build(), rng)
    assert sketch(plan) == ["Conv Affine Clamp -> codes", "LQLinear Affine -> float"]
    assert plan.regions[0].outputs[0].value.shape == (6, 4, 4)


def test_flattened_image_as_graph_output_keeps_its_shape_in_the_file(rng):
    plan = planned(Builder(rng, (3, 4, 4)).conv_float(6).flatten().build(), rng)
    assert plan.outputs[0][2] == (96,)
    assert plan.values[plan.outputs[0][1]].shape == (6, 4, 4)


def test_linear_on_a_vector_keeps_its_weights(rng):
    plan = planned(Builder(rng, (9,)).quantize(1).linear(5).relu().quantize(3).linear(4, bits=3).build(), rng)
    assert sketch(plan) == ["Copy -> codes", "LQLinear Affine Clamp -> codes", "LQLinear Affine -> float"]
    operation = plan.regions[1].operation
    assert isinstance(operation, Contraction)
    assert operation.weights.shape == (5, 9)
    assert operation.in_shape == (9, 1, 1)


@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
def test_weights_stored_inputs_first_are_transposed(rng, op_type):
    builder = Builder(rng, (2, 3, 2)).flatten()
    weights = builder.constant("weight", rng.normal(size=(12, 5)).astype(np.float32))
    plan = planned(builder.node(op_type, [builder.value, weights], (5,)).build(), rng)
    assert sketch(plan) == [f"{op_type} -> float"]


@pytest.mark.parametrize("op_type", ["Reshape", "Squeeze", "Identity", "Dropout"])
def test_operators_that_change_no_element_disappear(rng, op_type):
    builder = Builder(rng, (4, 5, 5)).conv_float(3).global_average_pool()
    inputs = [builder.value]
    if op_type == "Reshape":
        inputs.append(builder.constant("shape", np.array([-1, 3])))
    elif op_type == "Squeeze":
        inputs.append(builder.constant("axes", np.array([2, 3])))
    builder.node(op_type, inputs, (3,) if op_type in ("Reshape", "Squeeze") else (3, 1, 1))
    plan = planned((builder if len(builder.shape) == 1 else builder.flatten()).gemm_float(2).build(), rng)
    assert sketch(plan) == ["Conv Affine -> float", "AveragePool -> float", "Gemm Affine -> float"]


# ---------------------------------------------------------------------- kinds of weights and inputs


def test_weight_only_layers_read_floats(rng):
    plan = planned(Builder(rng, (4, 6, 6)).conv(8, bits=3).relu().conv(4).build(), rng)
    assert sketch(plan) == ["LQConv Affine Clamp -> float", "LQConv Affine -> float"]
    for region in plan.regions:
        assert isinstance(region.operation, Contraction)
        assert isinstance(region.operation.weights, LowBitWeights)


def test_weights_and_codes_of_different_kinds_meet_in_float(rng):
    low_on_8 = Builder(rng, (4, 6, 6)).quantize8().conv(8).build()
    float_on_low = Builder(rng, (4, 6, 6)).quantize(2).conv_float(8).build()
    int8_on_low = Builder(rng, (4, 6, 6)).quantize(2).conv8(8).build()
    for model in (low_on_8, float_on_low, int8_on_low):
        plan = planned(model, rng)
        assert sketch(plan)[0] == "Copy -> levels"
        source = plan.values[plan.regions[1].inputs[0]]
        assert source.decoded
        assert source.quantizer is not None
    operation = plan.regions[1].operation
    assert isinstance(operation, Contraction)
    assert not is_exact(operation, source.quantizer)


def test_float_convolution_keeps_its_weights(rng):
    plan = planned(Builder(rng, (4, 6, 6)).conv_float(8, stride=2, dilation=2, group=2).build(), rng)
    operation = plan.regions[0].operation
    assert isinstance(operation, Contraction)
    assert isinstance(operation.weights, FloatWeights)
    assert (operation.geometry.strides, operation.geometry.dilations, operation.geometry.group) == ((2, 2), (2, 2), 2)


# ---------------------------------------------------------------------- quantizers


def test_equal_quantizers_share_one_output(rng):
    builder = Builder(rng, (4, 6, 6)).conv_float(4)
    stream = builder.value
    left = builder.quantize(2).conv(4).value
    first = next(node for node in builder.nodes if node.op_type == "LQQuantize")
    builder.at(stream).node("LQQuantize", [stream, *first.input[1:]], (4, 6, 6), domain="lqcompile", integer_basis=0)
    plan = planned(builder.conv(4).add(left).build(), rng)
    assert sketch(plan) == ["Conv Affine -> codes", "LQConv Affine -> float", "LQConv Affine AddValue -> float"]
    assert plan.regions[1].inputs == plan.regions[2].inputs


def test_equal_uniform_quantizers_share_one_output(rng):
    builder = Builder(rng, (4, 6, 6)).conv_float(4)
    stream = builder.value
    left = builder.quantize8().conv8(4).value
    plan = planned(builder.at(stream).quantize8().conv8(4).add(left).build(), rng)
    assert sketch(plan)[0] == "Conv Affine -> codes"


def test_codes_that_floats_need_too_are_decoded_beside(rng):
    builder = Builder(rng, (4, 6, 6)).quantize(2)
    codes = builder.value
    plan = planned(builder.conv(4).add(codes).build(), rng)
    assert sketch(plan) == ["Copy -> codes, levels", "LQConv Affine AddValue -> float"]
    assert [output.value.name for output in plan.regions[0].outputs] == [codes, f"{codes}.decoded"]
    assert plan.regions[1].residuals == (f"{codes}.decoded",)


def test_quantizer_as_graph_output_is_decoded(rng):
    plan = planned(Builder(rng, (4, 6, 6)).conv_float(4).quantize(3).build(), rng)
    assert sketch(plan) == ["Conv Affine -> levels"]
    assert plan.values[plan.outputs[0][1]].decoded


def test_pools_and_flattening_between_equal_8_bit_quantizers_stay_codes(rng):
    """What quantizing tools write: a quantizer on either side of what keeps codes."""
    builder = Builder(rng, (3, 8, 8)).quantize8().conv8(6).relu().quantize8(scale=0.02).max_pool()
    builder.quantize8(scale=0.02).flatten().quantize8(scale=0.02).gemm8(5)
    assert sketch(planned(builder.build(), rng)) == [
        "Copy -> codes",
        "Conv Affine Clamp MaxPool -> codes",
        "Gemm Affine -> float",
    ]
    other = Builder(rng, (3, 8, 8)).quantize8().conv8(6).quantize8(scale=0.02).quantize8(scale=0.03).conv8(4)
    assert sketch(planned(other.build(), rng)) == [
        "Copy -> codes",
        "Conv Affine -> levels",
        "Copy -> codes",
        "Conv Affine -> float",
    ]


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_quantizing_twice_gives_the_same_codes(rng, dtype):
    """The rewrite rests on it: any scale, any zero point, every code."""
    exponents = rng.uniform(-45, 36, 300)
    for scale in np.float32(10.0) ** exponents.astype(np.float32) * np.float32(1 + rng.random()):
        if not 0 < scale < LARGEST_SCALE:
            continue
        limits = np.iinfo(dtype)
        point = int(rng.integers(limits.min, limits.max, endpoint=True))
        quantizer = UniformQuantizer(name="q", scale=np.float32(scale), zero_point=point, dtype=dtype)
        codes = np.arange(limits.min, limits.max + 1).astype(dtype)
        np.testing.assert_array_equal(quantize(dequantize(codes, quantizer), quantizer), codes)


def test_quantizer_of_a_quantizer_starts_from_levels(rng):
    plan = planned(Builder(rng, (4, 6, 6)).quantize(3).quantize(2).conv(4).build(), rng)
    assert sketch(plan) == ["Copy -> levels", "Copy -> codes", "LQConv Affine -> float"]


def test_name_of_levels_avoids_names_in_the_file(rng):
    builder = Builder(rng, (4, 6, 6)).quantize(2)
    codes = builder.value
    builder.conv(4).add(codes)
    builder.nodes[1].output[0] = f"{codes}.decoded"
    builder.nodes[2].input[0] = f"{codes}.decoded"
    plan = plan_of(builder.build())
    assert plan.regions[0].outputs[1].value.name == f"{codes}.decoded.1"


def test_max_pool_moves_in_front_of_the_quantizer(rng):
    builder = Builder(rng, (4, 8, 8)).conv_float(4).batch_norm().relu().quantize(2).max_pool()
    pooled = builder.value
    plan = planned(builder.max_pool(3, 1, 1).conv(4).build(), rng)
    assert sketch(plan) == ["Conv Affine Clamp MaxPool -> float", "Copy MaxPool -> codes", "LQConv Affine -> float"]
    assert pooled not in plan.values


def test_max_pool_of_codes_that_others_read_repeats_the_quantizer(rng):
    builder = Builder(rng, (4, 8, 8)).conv_float(4).quantize(2, signed=True, offset=-0.5)
    codes = builder.value
    pooled = builder.max_pool().conv(4).value
    plan = planned(builder.at(codes).conv(4, stride=2).add(pooled).build(), rng)
    assert sketch(plan) == [
        "Conv Affine -> float, codes",
        "Copy MaxPool -> codes",
        "LQConv Affine -> float",
        "LQConv Affine AddValue -> float",
    ]


def test_max_pool_moves_in_front_of_two_quantizers(rng):
    plan = planned(Builder(rng, (4, 8, 8)).conv_float(4).quantize8().quantize(2).max_pool().conv(4).build(), rng)
    assert sketch(plan) == ["Conv Affine MaxPool -> levels", "Copy -> codes", "LQConv Affine -> float"]


# ---------------------------------------------------------------------- where stages end


def test_value_that_floats_and_quantizers_read_is_stored_once_with_its_stages(rng):
    builder = Builder(rng, (4, 6, 6)).conv_float(4)
    stream = builder.value
    active = builder.batch_norm().relu().value
    left = builder.quantize(2).conv(4).value
    builder.at(active).average_pool(3, 1, 1).add(left)
    plan = planned(builder.add(stream).build(), rng)
    assert sketch(plan) == [
        "Conv Affine -> float, Affine Clamp float, Affine Clamp codes",
        "LQConv Affine -> float",
        "AveragePool AddValue -> float",
        "Copy AddValue -> float",
    ]


def test_stages_behind_a_shared_intermediate_start_from_its_rounded_value(rng):
    builder = Builder(rng, (4, 6, 6)).conv_float(4)
    stream = builder.value
    middle = builder.batch_norm().value
    left = builder.relu().quantize(2).conv(4).value
    right = builder.at(middle).clip(-0.5, 1.0).quantize(2).conv(4).add(left).value
    plan = planned(builder.at(stream).average_pool(3, 1, 1).add(right).build(), rng)
    assert sketch(plan)[:3] == ["Conv Affine -> float, Affine float", "Copy Clamp -> codes", "LQConv Affine -> float"]


def test_graph_output_in_the_middle_ends_the_stages(rng):
    builder = Builder(rng, (4, 6, 6)).conv_float(4).batch_norm()
    middle = builder.value
    plan = planned(builder.relu().quantize(2).conv(4).build([middle]), rng)
    assert sketch(plan) == ["Conv Affine -> float, Clamp codes", "LQConv Affine -> float"]
    assert [name for name, _, _ in plan.outputs][1] == middle


def test_second_addition_copies(rng):
    builder = Builder(rng, (4, 6, 6)).conv_float(4)
    first = builder.value
    second = builder.at("x").conv_float(4).value
    plan = planned(builder.at("x").conv_float(4).add(first).add(second).build(), rng)
    assert sketch(plan) == [
        "Conv Affine -> float",
        "Conv Affine -> float",
        "Conv Affine AddValue -> float",
        "Copy AddValue -> float",
    ]


def test_value_added_to_itself(rng):
    builder = Builder(rng, (4, 6, 6)).conv_float(4)
    plan = planned(builder.add(builder.value).relu().build(), rng)
    assert sketch(plan) == ["Conv Affine -> float", "Copy AddValue Clamp -> float"]


def test_batch_normalization_after_an_addition_belongs_to_the_output(rng):
    plan = planned(Builder(rng, (4, 6, 6)).conv_float(4).add("x").batch_norm().quantize(2).conv(4).build(), rng)
    assert sketch(plan) == ["Conv Affine AddValue -> Affine codes", "LQConv Affine -> float"]


def test_pool_after_an_addition_copies(rng):
    plan = planned(Builder(rng, (4, 6, 6)).conv_float(4).add("x").max_pool().build(), rng)
    assert sketch(plan) == ["Conv Affine AddValue -> float", "Copy MaxPool -> float"]


def test_operators_on_a_graph_input_copy_it(rng):
    plan = planned(Builder(rng, (4, 6, 6)).per_channel("Sub").per_channel("Div").conv_float(4).build(), rng)
    assert sketch(plan) == ["Copy Affine -> float", "Conv Affine -> float"]


def test_graph_input_as_output_is_copied(rng):
    plan = planned(Builder(rng, (4, 6, 6)).flatten().build(), rng)
    assert sketch(plan) == ["Copy -> float"]
    assert plan.outputs[0][1] not in {value.name for value in plan.inputs}


def test_softmax_and_pools(rng):
    plan = planned(Builder(rng, (4, 6, 6)).average_pool(3, 2, 1, 1).flatten().gemm_float(5).softmax().build(), rng)
    assert sketch(plan) == ["AveragePool -> float", "Gemm Affine -> float", "Softmax -> float"]


@pytest.mark.parametrize("keepdims", [0, 1])
def test_mean_over_the_image_is_an_average_pool(rng, keepdims):
    builder = Builder(rng, (4, 5, 6))
    axes = builder.constant("axes", np.array([-1, 2]))
    shape = (4, 1, 1) if keepdims else (4,)
    plan = planned(builder.node("ReduceMean", ["x", axes], shape, keepdims=keepdims).quantize(2).build(), rng)
    assert sketch(plan) == ["AveragePool -> levels"]


def test_what_no_output_needs_is_dropped(rng):
    builder = Builder(rng, (4, 6, 6)).conv_float(4)
    kept = builder.value
    builder.batch_norm().quantize(2).conv(4)
    assert sketch(plan_of(builder.at(kept).relu().build())) == ["Conv Affine Clamp -> float"]


# ---------------------------------------------------------------------- constants


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("scalar", [False, True])
def test_constants_become_one_affine_map(rng, op_type, scalar):
    builder = Builder(rng, (4, 6, 6)).conv_float(4).batch_norm()
    if scalar:
        builder.node(op_type, [builder.value, builder.constant("c", np.float32(0.7))], builder.shape)
    else:
        builder.per_channel(op_type)
    plan = planned(builder.build(), rng)
    assert sketch(plan) == ["Conv Affine -> float"]


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul"])
def test_constant_may_come_first(rng, op_type):
    builder = Builder(rng, (4, 6, 6)).relu()
    constant = builder.constant("c", rng.normal(size=(1, 4, 1, 1)).astype(np.float32))
    assert sketch(planned(builder.node(op_type, [constant, builder.value], builder.shape).build(), rng)) == [
        "Copy Clamp Affine -> float"
    ]


def test_batch_normalization_is_folded_in_float64(rng):
    model = Builder(rng, (4, 6, 6)).batch_norm().build()
    plan = planned(model, rng)
    gamma, beta, mean, variance = (
        onnx.numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer
    )
    (stage,) = plan.regions[0].stages
    assert isinstance(stage, Affine)
    scale = gamma / np.sqrt(variance + float(np.float32(1e-5)))
    np.testing.assert_array_equal(stage.scale, scale)
    np.testing.assert_array_equal(stage.shift, beta - mean * scale)


def test_constant_per_channel_of_a_flattened_image(rng):
    builder = Builder(rng, (3, 2, 2)).flatten()
    values = np.repeat(rng.normal(size=3), 4).astype(np.float32)[None]
    plan = planned(builder.node("Mul", [builder.value, builder.constant("c", values)], (12,)).build(), rng)
    (stage,) = plan.regions[0].stages
    assert isinstance(stage, Affine)
    np.testing.assert_array_equal(stage.scale, values[0, ::4].astype(np.float64))


def test_neighbouring_stages_are_joined(rng):
    scale, shift = rng.normal(size=(2, 3))
    affine = Affine(scale=scale, shift=shift)
    nothing = Affine(scale=np.ones(3), shift=np.zeros(3))
    (joined,) = fold_stages([affine, affine])
    assert isinstance(joined, Affine)
    np.testing.assert_array_equal(joined.scale, scale * scale)
    np.testing.assert_array_equal(joined.shift, shift * scale + shift)
    relu, relu6 = Clamp(low=0, high=np.inf), Clamp(low=-1, high=6)
    assert fold_stages([relu, nothing, relu6]) == (Clamp(low=0, high=6),)
    x = rng.normal(size=100) * 3
    for low, high in rng.normal(size=(20, 2)):
        second = Clamp(low=low, high=high)
        (both,) = fold_stages([relu6, second])
        assert isinstance(both, Clamp)
        step = np.minimum(np.maximum(x, -1), 6)
        expected = np.minimum(np.maximum(step, low), high)
        np.testing.assert_array_equal(np.minimum(np.maximum(x, both.low), both.high), expected)
