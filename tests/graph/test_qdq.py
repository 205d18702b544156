import numpy as np
import onnx
import pytest
from models import Builder, classifier_model
from onnx import helper

from lqcompile.errors import ModelError, UnsupportedError
from lqcompile.graph.check import check
from lqcompile.graph.load import prepare
from lqcompile.graph.nodes import constant
from lqcompile.graph.qdq import read_int8_weights, read_uniform_quantizer


def rng() -> np.random.Generator:
    return np.random.default_rng(13)


def quantized(scale=0.1, zero_point=3, dtype="uint8", **attributes) -> Builder:
    """A graph input that is quantized."""
    builder = Builder(rng(), (3, 4, 4))
    names = [builder.constant("scale", np.asarray(scale, np.float32))]
    if zero_point is not None:
        names.append(builder.constant("zero_point", np.asarray(zero_point, dtype)))
    return builder.node("QuantizeLinear", ["x", *names], (3, 4, 4), **attributes)


def dequantize(builder: Builder, scale=0.1, zero_point=3, dtype="uint8", **attributes) -> Builder:
    names = [builder.constant("scale", np.asarray(scale, np.float32))]
    if zero_point is not None:
        names.append(builder.constant("zero_point", np.asarray(zero_point, dtype)))
    return builder.node("DequantizeLinear", [builder.value, *names], builder.shape, **attributes)


def weights_model(values: np.ndarray, scale: object, zero_point: object, axis: int | None = 0) -> onnx.ModelProto:
    """A Conv whose weights come from DequantizeLinear."""
    builder = Builder(rng(), (3, 4, 4))
    attributes = {} if axis is None else {"axis": axis}
    arrays = {
        "values": values,
        "scale": np.asarray(scale, np.float32),
        "zero_point": np.asarray(zero_point, values.dtype),
    }
    names = [builder.constant(label, array) for label, array in arrays.items()]
    builder.node("DequantizeLinear", names, values.shape[1:], **attributes)
    weight = builder.value
    return builder.at("x").node("Conv", ["x", weight], (values.shape[0], 2, 2)).build()


def refuse(model: onnx.ModelProto, match: str, error: type[ModelError] = UnsupportedError) -> None:
    with pytest.raises(error, match=match) as caught:
        check(prepare(model))
    assert type(caught.value) is error


@pytest.mark.parametrize(("dtype", "zero_point"), [("uint8", 128), ("int8", -5), ("uint8", 0)])
def test_read_uniform_quantizer(dtype, zero_point):
    model = dequantize(quantized(0.03, zero_point, dtype), 0.03, zero_point, dtype).build()
    loaded = prepare(model)
    check(loaded)
    for node in loaded.graph:
        spec = read_uniform_quantizer(node)
        assert (spec.scale, spec.zero_point, spec.dtype) == (np.float32(0.03), zero_point, dtype)
        assert spec.name == node.name


def test_zero_point_may_be_left_out():
    loaded = prepare(dequantize(quantized(zero_point=None), zero_point=None).build())
    check(loaded)
    assert {(read_uniform_quantizer(node).zero_point, read_uniform_quantizer(node).dtype) for node in loaded.graph} == {
        (0, "uint8")
    }


def test_read_int8_weights():
    model = classifier_model(rng())
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = {node.name: node for node in prepare(model).graph}
    found = 0
    for proto in model.graph.node:
        if proto.op_type == "DequantizeLinear" and constant(nodes[proto.name].inputs[0]) is not None:
            weights = read_int8_weights(nodes[proto.name])
            np.testing.assert_array_equal(weights.values, stored[proto.input[0]])
            np.testing.assert_array_equal(weights.scale, stored[proto.input[1]])
            found += 1
    assert found == 2


@pytest.mark.parametrize("axis", [None, 0, -4])
def test_one_scale_serves_every_channel(axis):
    scale = 0.5 if axis is None else [0.5, 0.5]
    model = weights_model(np.ones((2, 3, 3, 3), np.int8), scale, 0 if axis is None else [0, 0], axis)
    loaded = prepare(model)
    check(loaded)
    np.testing.assert_array_equal(read_int8_weights(next(iter(loaded.graph))).scale, np.full(2, 0.5, np.float32))


ONES = np.ones((2, 3, 3, 3), np.int8)

CASES = [
    (
        lambda: dequantize(quantized([0.1] * 3, [0] * 3, axis=1), [0.1] * 3, [0] * 3, axis=1).build(),
        r"^node 'quantizelinear_0' \(QuantizeLinear\): found 3 scales, expected one for the whole tensor; quantize",
    ),
    (
        lambda: dequantize(quantized(zero_point=0, dtype="int16"), zero_point=0, dtype="int16").build(),
        r"\(QuantizeLinear\): found codes of type int16, expected uint8 or int8; quantize to 8 bits$",
    ),
    (
        lambda: weights_model(ONES.astype(np.uint8) + 254, 0.1, 20, None),
        r"\(DequantizeLinear\): found uint8 weights of 235\.\.235 around zero points \[20\], expected -128\.\.127;",
    ),
    (
        lambda: weights_model(ONES + 125, [0.1, 0.1], [0, -4]),
        r"\(DequantizeLinear\): found int8 weights of 126\.\.130 around zero points \[-4, 0\], expected -128\.\.127;",
    ),
    (
        lambda: weights_model(ONES, [0.1] * 3, [0] * 3, 1),
        r"\[3\] scales along axis 1 of \[2, 3, 3, 3\] weights, expected one per output channel, axis 0; quantize",
    ),
]


@pytest.mark.parametrize(("make", "match"), CASES)
def test_other_quantization(make, match):
    model = make()
    model.opset_import[0].version = 21  # the first with 16-bit codes
    refuse(model, match)


def test_parameters_that_differ():
    match = (
        r"^node 'dequantizelinear_1' \(DequantizeLinear\): found scale 0\.2.* and zero point 3 \(uint8\), expected "
        r"those of node 'quantizelinear_0' \(QuantizeLinear\), 0\.1.* and 3 \(uint8\); export the model again$"
    )
    refuse(dequantize(quantized(), scale=0.2).build(), match, ModelError)
    refuse(dequantize(quantized(), zero_point=4).build(), r"found scale 0\.1.* and zero point 4", ModelError)


@pytest.mark.parametrize("scale", [0.0, -0.5])
def test_scale_that_is_not_positive(scale):
    match = r"\(QuantizeLinear\): scale is float32\[\] from -?0\.[05], expected positive float32\[\] or float32\[O\];"
    refuse(dequantize(quantized(scale), scale).build(), match, ModelError)


def test_scale_that_is_not_finite():
    match = r"\(QuantizeLinear\): scale has NaN or infinite entries, expected finite numbers"
    refuse(dequantize(quantized(np.nan), np.nan).build(), match, ModelError)


def test_codes_as_output():
    model = quantized().build()
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    refuse(model, r"\(QuantizeLinear\): found that its codes are a graph output, expected only Deq")


def test_codes_that_something_else_reads():
    model = dequantize(quantized()).build()
    codes = model.graph.node[0].output[0]
    model.graph.node.insert(1, helper.make_node("Identity", [codes], ["copy"], name="copy"))
    refuse(model, r"\(QuantizeLinear\): found that node 'copy' \(Identity\) reads its codes, expected only Dequant")


@pytest.mark.parametrize(("dtype", "zero_point"), [("uint8", 120), ("int8", 3), ("int8", [1, -2])])
def test_weights_around_a_zero_point(dtype, zero_point):
    """What 8 bits hold without the zero point is compiled with it subtracted."""
    draw = rng().integers(-100, 101, (2, 3, 3, 3))
    points = np.reshape(zero_point, (-1, 1, 1, 1))
    scale = np.full(np.shape(zero_point), 0.5)
    loaded = prepare(weights_model((draw + points).astype(dtype), scale, zero_point))
    check(loaded)
    np.testing.assert_array_equal(read_int8_weights(next(iter(loaded.graph))).values, draw)


def test_dequantize_of_something_else():
    builder = Builder(rng(), (3, 4, 4))
    model = dequantize(builder).build()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    refuse(model, r"^input 'x': found type UINT8, expected float32")
    model = dequantize(quantized()).build()
    codes = model.graph.node[0].output[0]
    model.graph.node.insert(1, helper.make_node("Relu", ["x"], ["copy"], name="copy"))
    model.graph.node[1].CopyFrom(helper.make_node("Identity", [codes], ["copy"], name="copy"))
    model.graph.node[2].input[0] = "copy"
    refuse(model, r"\(QuantizeLinear\): found that node 'copy' \(Identity\) reads its codes")
