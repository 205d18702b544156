from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from models import Builder, chain_model, classifier_model, conv_model, linear_model, open_output, residual_model
from onnx import helper, numpy_helper

from lqcompile.errors import ModelError, UnsupportedError
from lqcompile.graph import functions
from lqcompile.graph.check import check, load_checked, read_quantizer, read_weights
from lqcompile.graph.load import prepare
from lqcompile.graph.schema import OPERATORS

QUANTIZER = r"^node 'lqquantize_0' \(lqcompile::LQQuantize\): "
CONV = r"^node 'lqconv_1' \(lqcompile::LQConv\): "


def rng() -> np.random.Generator:
    return np.random.default_rng(11)


def node_of(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def alter(model: onnx.ModelProto, op_type: str, label: str, change: Callable[[np.ndarray], Any]) -> None:
    """Replace a constant input of the first node of a type by what `change` makes of it."""
    node = node_of(model, op_type)
    index = OPERATORS[op_type].index(label)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[index])
    array = np.asarray(change(numpy_helper.to_array(tensor).copy()))
    name = f"{tensor.name}_altered"
    model.graph.initializer.append(numpy_helper.from_array(array, name))
    node.input[index] = name


def set_attribute(model: onnx.ModelProto, op_type: str, label: str, value: Any) -> None:
    node = node_of(model, op_type)
    kept = [attribute for attribute in node.attribute if attribute.name != label]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(label, value)])


def small_conv(**options: Any) -> onnx.ModelProto:
    return conv_model(rng(), channels=(2, 8), size=(5, 5), **options)


def refuse(model: onnx.ModelProto, match: str, error: type[ModelError] = ModelError) -> None:
    with pytest.raises(error, match=match) as caught:
        check(prepare(model))
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def set_at(index: Any, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] = value
        return array

    return change


# ---------------------------------------------------------------------- what passes


@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("make", [chain_model, residual_model, classifier_model, linear_model])
def test_valid_models_pass(make, integer, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(make(rng(), integer=integer), path)
    assert load_checked(path).graph.name == "test"


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("integer", [False, True])
def test_readers_give_what_the_file_holds(bits, integer):
    model = small_conv(weight_bits=bits, act_bits=bits, integer=integer, act_offset=0.0 if integer else -0.25)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = {node.op_type: node for node in prepare(model).graph}
    quantizer = read_quantizer(nodes["LQQuantize"])
    for label, name in zip(OPERATORS["LQQuantize"][1:], node_of(model, "LQQuantize").input[1:], strict=True):
        np.testing.assert_array_equal(getattr(quantizer, label), stored[name])
    assert (quantizer.name, quantizer.bits, quantizer.integer_basis) == ("lqquantize_0", bits, integer)
    weights = read_weights(nodes["LQConv"])
    for label, name in zip(OPERATORS["LQConv"][1:], node_of(model, "LQConv").input[1:], strict=True):
        if label != "bias":
            np.testing.assert_array_equal(getattr(weights, label), stored[name])
    assert (weights.shape, weights.bits, weights.integer_basis) == ((8, 2, 3, 3), bits, integer)


def test_constants_may_be_nodes():
    model = small_conv()
    node = node_of(model, "LQConv")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    model.graph.initializer.remove(tensor)
    constant = helper.make_node("Constant", [], ["planes_node"], value=tensor)
    node.input[1] = "planes_alias"
    model.graph.node.insert(0, constant)
    model.graph.node.insert(1, helper.make_node("Identity", ["planes_node"], ["planes_alias"]))
    check(prepare(model))


# ---------------------------------------------------------------------- LQQuantize

QUANTIZER_VIOLATIONS = [
    (
        "thresholds",
        lambda a: a[::-1].copy(),
        r"thresholds are \[.*\], expected ascending order; export the model again$",
    ),
    ("thresholds", set_at(1, np.nan), r"thresholds has NaN or infinite entries, expected finite numbers; look for a"),
    ("thresholds", set_at(2, np.inf), r"thresholds has NaN or infinite entries"),
    ("levels", lambda a: a[::-1].copy(), r"levels are \[.*\], expected ascending order; export the model again$"),
    ("levels", set_at(0, -np.inf), r"levels has NaN or infinite entries"),
    ("levels", lambda a: a[:3], r"levels is float32\[3\], expected float32\[4\]; export the model again$"),
    (
        "levels",
        lambda a: a * np.float32(1.0001),
        r"levels\[1\] is [\d.]+, expected [\d.]+ from basis and codes\[1\]=1;",
    ),
    ("codes", lambda a: a[[0, 2, 1, 3]], r"levels\[1\] is [\d.]+, expected [\d.]+ from basis and codes\[1\]=2; export"),
    ("codes", lambda a: a * 0, r"codes are \[0, 0, 0, 0\], expected a permutation of 0\.\.3; export the model again$"),
    ("codes", lambda a: a + 1, r"codes are \[1, 2, 3, 4\], expected a permutation of 0\.\.3"),
    ("basis", set_at(0, np.nan), r"basis has NaN or infinite entries, expected finite numbers"),
    ("basis", lambda a: np.ones(5, np.float32), r"basis has shape \[5\], expected \[K\] with K in 1\.\.4; export"),
    ("basis", lambda a: a[:0], r"basis has shape \[0\], expected \[K\] with K in 1\.\.4"),
    ("basis", lambda a: a[None], r"basis has shape \[1, 2\], expected \[K\] with K in 1\.\.4"),
    ("basis", lambda a: a[:1], r"thresholds is float32\[3\], expected float32\[1\]; export the model again$"),
    ("offset", lambda a: a + np.float32(0.5), r"levels\[0\] is 0, expected 0\.5 from basis and codes\[0\]=0"),
    ("offset", lambda a: a.reshape(1), r"offset is float32\[1\], expected float32\[\]"),
    (
        "scale",
        lambda a: a * np.float32(2),
        r"integer_basis is 0 and scale is 2\.0, expected 1; export the model again$",
    ),
]


@pytest.mark.parametrize(("label", "change", "match"), QUANTIZER_VIOLATIONS)
def test_quantizer_violations(label, change, match):
    model = small_conv()
    alter(model, "LQQuantize", label, change)
    refuse(model, QUANTIZER + match)


INTEGER_QUANTIZER_VIOLATIONS = [
    ("basis", lambda a: a + np.float32(0.5), r"integer_basis is 1 and basis has [\d.]+\.5, expected integers; export"),
    (
        "basis",
        lambda a: -a,
        r"integer_basis is 1 and basis is \[-.*\], expected entries of 0 and more that sum to at most 255;",
    ),
    (
        "basis",
        lambda a: a * 0 + 128,
        r"integer_basis is 1 and basis is \[128\.0, 128\.0\], expected entries of 0 and more",
    ),
    ("offset", lambda a: a + np.float32(0.5), r"integer_basis is 1 and offset is 0\.5, expected 0; export the model"),
    (
        "scale",
        lambda a: a * 0,
        r"integer_basis is 1 and scale is 0\.0, expected a positive number of at most 16 significant",
    ),
    ("scale", lambda a: -a, r"integer_basis is 1 and scale is -[\d.e-]+, expected a positive number"),
    (
        "scale",
        lambda a: np.float32(1 / 3),
        r"integer_basis is 1 and scale is 0\.33333.*, expected a positive number of at",
    ),
    (
        "scale",
        lambda a: np.float32(2.0**-120),
        r"integer_basis is 1 and scale is 7\.5.*e-37, .* 2\*\*-100 and 2\*\*100;",
    ),
    ("levels", lambda a: np.nextafter(a, np.float32(9)), r"levels\[0\] is 1\.4.*e-45, expected 0 from basis and codes"),
]


@pytest.mark.parametrize(("label", "change", "match"), INTEGER_QUANTIZER_VIOLATIONS)
def test_integer_quantizer_violations(label, change, match):
    model = small_conv(integer=True)
    alter(model, "LQQuantize", label, change)
    refuse(model, QUANTIZER + match)


@pytest.mark.parametrize(
    ("op_type", "label", "dtype"),
    [("LQQuantize", "thresholds", "float64"), ("LQQuantize", "codes", "int8"), ("LQConv", "planes", "int8")],
)
def test_parameters_of_another_type(op_type, label, dtype):
    model = small_conv()
    alter(model, op_type, label, lambda a: a.astype(dtype))
    refuse(
        model, rf"^model: found an invalid graph \(.*op_type:{op_type}, node name: lq.*_\d\): {label} typestr: tensor"
    )


def test_integer_basis_is_a_flag():
    model = small_conv()
    set_attribute(model, "LQQuantize", "integer_basis", 2)
    refuse(model, QUANTIZER + r"integer_basis is 2, expected 0 or 1; export the model again$")


def test_overload_of_other_bits():
    model = small_conv()
    node_of(model, "LQQuantize").overload = "bits3"
    model.functions.extend(body for body in functions.functions(18) if body.overload == "bits3")
    refuse(model, QUANTIZER + r"overload is 'bits3', expected 'bits2' for its thresholds; export the model again$")


# ---------------------------------------------------------------------- LQConv and LQLinear

WEIGHT_VIOLATIONS = [
    (
        "planes",
        lambda a: a[:, :, :2],
        r"planes hold 16 bits per row, expected at least 18 for weight_shape \[8, 2, 3, 3\];",
    ),
    ("planes", lambda a: np.pad(a, ((0, 0), (0, 0), (0, 1))), r"planes is uint8\[8, 2, 4\], expected uint8\[8, 2, 3\]"),
    ("planes", lambda a: a[:7], r"planes is uint8\[7, 2, 3\], expected uint8\[8, 2, 3\]; export the model again$"),
    (
        "planes",
        lambda a: a[:, 0],
        r"planes has shape \[8, 3\], expected \[O,K,bytes\] with K in 1\.\.4; export the model",
    ),
    (
        "planes",
        lambda a: np.tile(a, (1, 3, 1)),
        r"planes has shape \[8, 6, 3\], expected \[O,K,bytes\] with K in 1\.\.4",
    ),
    ("planes", lambda a: a[:, :0], r"planes has shape \[8, 0, 3\], expected \[O,K,bytes\] with K in 1\.\.4"),
    (
        "planes",
        set_at((3, 1, 2), 4),
        r"planes have bits set after the first 18 of a row, expected zeros; export the model",
    ),
    ("basis", lambda a: a[:, :1], r"basis is float32\[8, 1\], expected float32\[8, 2\]; export the model again$"),
    ("basis", lambda a: a.T.copy(), r"basis is float32\[2, 8\], expected float32\[8, 2\]"),
    (
        "basis",
        set_at((0, 0), np.nan),
        r"basis has NaN or infinite entries, expected finite numbers; look for a diverged",
    ),
    ("basis", set_at((7, 1), np.inf), r"basis has NaN or infinite entries"),
    ("offset", lambda a: a[:2], r"offset is float32\[2\], expected float32\[8\]; export the model again$"),
    ("offset", set_at(0, np.nan), r"offset has NaN or infinite entries"),
    ("bias", lambda a: a[:2], r"bias is float32\[2\], expected float32\[8\]; export the model again$"),
    ("bias", set_at(0, np.inf), r"bias has NaN or infinite entries"),
    ("scale", lambda a: a[:2], r"scale is float32\[2\], expected float32\[8\]; export the model again$"),
    ("scale", set_at(3, 0.5), r"integer_basis is 0 and scale is 0\.5, expected 1; export the model again$"),
]


@pytest.mark.parametrize(("label", "change", "match"), WEIGHT_VIOLATIONS)
def test_weight_violations(label, change, match):
    model = small_conv()
    alter(model, "LQConv", label, change)
    refuse(model, CONV + match)


INTEGER_WEIGHT_VIOLATIONS = [
    (
        "basis",
        set_at((0, 0), 1.5),
        r"integer_basis is 1 and basis has 1\.5, expected integers; export the model again$",
    ),
    (
        "basis",
        set_at((4, slice(None)), (-100, 28)),
        r"integer_basis is 1 and basis\[4\] is \[-100\.0, 28\.0\], expected abs",
    ),
    ("offset", set_at(2, 0.25), r"integer_basis is 1 and offset is 0\.25, expected 0; export the model again$"),
    (
        "scale",
        set_at(2, 1 / 3),
        r"integer_basis is 1 and scale is 0\.33333.*, expected a positive number of at most 16 sig",
    ),
    (
        "scale",
        set_at(2, 2.0**120),
        r"integer_basis is 1 and scale is 1\.3.*e\+36, expected a positive number of at most",
    ),
]


@pytest.mark.parametrize(("label", "change", "match"), INTEGER_WEIGHT_VIOLATIONS)
def test_integer_weight_violations(label, change, match):
    model = small_conv(integer=True)
    alter(model, "LQConv", label, change)
    refuse(model, CONV + match)


CONV_ATTRIBUTES = [
    ("strides", [0, 1], r"strides is \[0, 1\], expected 2 integers of 1 or more; export the model again$"),
    ("strides", [1], r"strides is \[1\], expected 2 integers of 1 or more"),
    ("pads", [1, 1], r"pads is \[1, 1\], expected 4 integers of 0 or more; export the model again$"),
    ("pads", [1, 1, -1, 1], r"pads is \[1, 1, -1, 1\], expected 4 integers of 0 or more"),
    ("dilations", [1, 0], r"dilations is \[1, 0\], expected 2 integers of 1 or more; export the model again$"),
    ("group", 0, r"group is 0, expected 1 integer of 1 or more; export the model again$"),
    (
        "weight_shape",
        [8, 2, 9],
        r"weight_shape is \[8, 2, 9\], expected \[O, C/group, kh, kw\] with sizes of 1 and more;",
    ),
    ("weight_shape", [8, 2, 0, 3], r"weight_shape is \[8, 2, 0, 3\], expected \[O, C/group, kh, kw\] with sizes of 1"),
    ("integer_basis", -1, r"integer_basis is -1, expected 0 or 1"),
]


@pytest.mark.parametrize(("label", "value", "match"), CONV_ATTRIBUTES)
def test_conv_attributes(label, value, match):
    model = small_conv()
    set_attribute(model, "LQConv", label, value)
    refuse(open_output(model), CONV + match)


def test_conv_group_that_does_not_fit():
    model = small_conv()
    set_attribute(model, "LQConv", "group", 2)
    refuse(
        model,
        CONV + r"found 2 input channels and group=2 for weights \[8, 2, 3, 3\], expected 4 input channels and output",
        UnsupportedError,
    )


def test_linear_of_other_width():
    model = Builder(rng(), (5,)).linear(3).build()
    set_attribute(model, "LQLinear", "weight_shape", [3, 6])
    refuse(model, r"^node 'lqlinear_0' \(lqcompile::LQLinear\): found 5 input channels and group=1", UnsupportedError)


def test_linear_weight_shape():
    model = Builder(rng(), (5,)).linear(3).build()
    set_attribute(model, "LQLinear", "weight_shape", [3, 5, 1])
    refuse(
        open_output(model), r"\(lqcompile::LQLinear\): weight_shape is \[3, 5, 1\], expected \[O, C\] with sizes of 1"
    )


def test_linear_on_sequences():
    builder = Builder(rng(), (4, 5))
    builder.shape = (5,)
    builder.linear(3)
    builder.shapes[builder.value] = builder.shape = (4, 3)
    refuse(builder.build(), r"found an input of rank 3, expected 2 \[N,C\]; reshape it before$", UnsupportedError)


def test_computed_parameter():
    model = small_conv()
    node = node_of(model, "LQConv")
    model.graph.node.insert(0, helper.make_node("Relu", [node.input[2]], ["computed"], name="relu"))
    node.input[2] = "computed"
    refuse(model, CONV + r"basis: found the computed value 'computed', expected a constant; export the model again$")


def test_unknown_low_bit_operator():
    model = small_conv()
    model.graph.node.append(helper.make_node("LQPool", ["x"], ["pooled"], name="pool", domain="lqcompile"))
    body = "LQPool (x) => (y) { y = Relu(x) }"
    model.functions.append(onnx.parser.parse_function(f'<domain: "lqcompile", opset_import: ["": 18]> {body}'))
    known = "LQConv, LQLinear, LQQuantize"
    refuse(model, rf"^node 'pool' \(lqcompile::LQPool\): found an unknown operator, expected one of {known}; export")


def test_missing_function_bodies():
    model = small_conv()
    del model.functions[0]
    refuse(model, CONV + r"found no function body in the file, expected one; export the model again$")
    model = small_conv()
    del model.functions[1]
    refuse(model, QUANTIZER + r"found no function body with overload 'bits2' in the file, expected one; export")


def test_unnamed_node_is_called_by_its_output():
    model = small_conv()
    node_of(model, "LQConv").name = ""
    alter(model, "LQConv", "planes", lambda a: a[:7])
    refuse(model, r"^the node that makes 'v_lqconv_1' \(lqcompile::LQConv\): planes is")


# ---------------------------------------------------------------------- values


def test_no_input():
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones((1, 2), np.float32), ""))],
            "constant",
            [],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 2])],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    refuse(model, r"^model: found no input, expected at least one; export the model again$")


def test_input_of_another_type():
    model = Builder(rng(), (3, 4, 4)).relu().build()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    refuse(model, r"^input 'x': found type DOUBLE, expected float32; export with a float32 example$", UnsupportedError)


def test_open_image_size():
    model = open_output(Builder(rng(), (3, 8, 8)).conv_float(4).build())
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "W"
    refuse(
        model,
        r"^input 'x': found shape \[N, 3, 8, W\], expected only the batch \(dimension 0\) to vary; export with fixed",
        UnsupportedError,
    )


def test_unnamed_open_size():
    model = open_output(Builder(rng(), (3, 8, 8)).conv_float(4).build())
    model.graph.input[0].type.tensor_type.shape.dim[2].Clear()
    refuse(model, r"^input 'x': found shape \[N, 3, \?, 8\], expected only the batch", UnsupportedError)


def test_zero_size():
    model = Builder(rng(), (3, 0, 8)).relu().build()
    refuse(model, r"^input 'x': found shape \[N, 3, 0, 8\], expected sizes of 1 or more; export with a larger example$")


def test_zero_batch():
    model = Builder(rng(), (3, 8, 8), batch=0).relu().build()
    refuse(model, r"^input 'x': found shape \[0, 3, 8, 8\], expected sizes of 1 or more")


def test_kernel_larger_than_the_image():
    model = conv_model(rng(), size=(2, 2), kernel=4, pads=0)
    refuse(model, CONV + r"output 'v_lqconv_1': found shape \[N, 16, -1, -1\], expected sizes of 1 or more")


def test_scalar_input():
    model = Builder(rng(), ()).relu().build()
    for value in (*model.graph.input, *model.graph.output):
        del value.type.tensor_type.shape.dim[:]
    refuse(
        model,
        r"^input 'x': found a scalar, expected a batch in dimension 0; keep the batch dimension$",
        UnsupportedError,
    )


def test_unknown_shape():
    builder = Builder(rng(), (3, 8, 8))
    # onnx does not look through Relu, so that nothing is known about the result of the Squeeze.
    axes = builder.node("Relu", [builder.constant("axes", np.array([2, 3]))], ()).value
    builder.at("x").global_average_pool()
    model = builder.node("Squeeze", [builder.value, axes], (3,)).relu().build()
    refuse(model, r"^node 'squeeze_2' \(Squeeze\): output 'v_squeeze_2': found no shape, expected one")


def test_custom_domain():
    model = Builder(rng(), (3, 8, 8)).node("Gelu", ["x"], (3, 8, 8), domain="com.microsoft").build()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    refuse(
        model,
        r"^node 'gelu_0' \(com\.microsoft::Gelu\): found an operator of the domain 'com\.microsoft', expected ai\.onnx "
        r"or lqcompile; export without custom operators$",
        UnsupportedError,
    )
