"""Quantized constants against ONNX Runtime, and layers that read them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import Builder, random_input

from lqcompile.errors import LQCompileError, ModelError, UnsupportedError
from lqcompile.graph.check import check
from lqcompile.graph.load import prepare
from lqcompile.graph.nodes import constant
from lqcompile.graph.plan import Affine, Contraction
from lqcompile.graph.specs import Int8Weights
from tests.graph.planning import check_against_onnxruntime, plan_of, run_plainly, sketch


def quantizing_node(
    op_type: str, values: np.ndarray, scale: object, zero_point: np.ndarray | None, **attributes: int
) -> Builder:
    """One QuantizeLinear or DequantizeLinear of a constant, added to the input after (codes are dequantized)."""
    builder = Builder(np.random.default_rng(0), values.shape[1:], opset=21)
    names = [builder.constant("scale", np.asarray(scale, np.float32))]
    names += [] if zero_point is None else [builder.constant("zero_point", zero_point)]
    builder.node(op_type, [builder.constant("values", values), *names], values.shape[1:], **attributes)
    if op_type == "QuantizeLinear":
        builder.node("DequantizeLinear", [builder.value, *names], values.shape[1:], **attributes)
    return builder


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "float32"])
@pytest.mark.parametrize("axis", [None, 0, -1])
def test_constants_are_those_of_onnxruntime(dtype: str, axis: int | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = (1 if axis is None else 3, 4)
    scales = () if axis is None else (shape[axis],)
    scale = np.exp(rng.normal(size=scales) * 3).astype(np.float32)
    code = "int8" if dtype == "float32" else dtype
    if dtype == "float32":
        # Ties too: halves of the scale.
        values = (rng.integers(-400, 400, shape) * np.float32(0.5) * scale.reshape(-1)[0]).astype(np.float32)
    else:
        limits = np.iinfo(dtype)
        values = rng.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)
    points = np.zeros(scales, code) if code == "int32" else rng.integers(0, 100, scales).astype(code)
    attributes = {} if axis is None else {"axis": axis}
    op_type = "QuantizeLinear" if dtype == "float32" else "DequantizeLinear"
    builder = quantizing_node(op_type, values, scale, points, **attributes)
    model = builder.build()
    del model.graph.output[:]
    made = {name: code for name in builder.shapes if name != "x"} | {builder.value: "float32"}
    for name, kind in made.items():
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, element, shape))
    expected = run_plainly(model, {"x": np.zeros((1, *shape[1:]), np.float32)})
    folded = {str(node.outputs[0].name): constant(node.outputs[0]) for node in prepare(model).graph}
    assert folded.keys() == expected.keys()
    for name, array in folded.items():
        assert array is not None and array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])


def int8_layers(rng: np.random.Generator, bias: str, weights: str) -> onnx.ModelProto:
    """A convolution and linear layers, with biases and weights as quantizing tools write them.

    Args:
        rng: source of every number.
        bias: "int32", or "tensor" for one scale of all.
        weights: "codes", or "floats" behind a QuantizeLinear.
    """
    builder = Builder(rng, (3, 6, 6)).quantize8(scale=0.02)

    def constants(shape: tuple[int, ...], axis: int, *, sums: bool) -> str:
        here, here_shape = builder.value, builder.shape
        single = sums and bias == "tensor"
        scale = rng.uniform(0.002, 0.01, () if single else shape[axis]).astype(np.float32) * (0.02 if sums else 1)
        along = scale.reshape(-1 if single else [-1 if i == axis else 1 for i in range(len(shape))])
        dtype = "int32" if sums else "int8"
        values = rng.integers(-30000 if sums else -127, 30000 if sums else 128, shape).astype(dtype)
        names = [builder.constant("scale", scale), builder.constant("point", np.zeros(scale.shape, dtype))]
        source = builder.constant("values", values)
        if weights == "floats" and not sums:
            floats = (values * along).astype(np.float32)
            source = builder.node("QuantizeLinear", [builder.constant("w", floats), *names], shape[1:], axis=axis).value
        made = builder.node("DequantizeLinear", [source, *names], shape[1:], axis=axis).value
        builder.value, builder.shape = here, here_shape
        return made

    inputs = [constants((8, 3, 3, 3), 0, sums=False), constants((8,), 0, sums=True)]
    builder.node("Conv", [builder.value, *inputs], (8, 4, 4)).relu().quantize8(zero_point=0, scale=0.02)
    builder.flatten().quantize8(zero_point=0, scale=0.02)
    builder.node("MatMul", [builder.value, constants((128, 12), 1, sums=False)], (12,)).quantize8(scale=0.04)
    inputs = [constants((12, 10), 1, sums=False), constants((10,), 0, sums=True)]
    builder.node("Gemm", [builder.value, *inputs], (10,), alpha=0.75, beta=-1.5).quantize8(scale=0.05)
    inputs = [constants((5, 10), 0, sums=False), constants((5,), 0, sums=True)]
    return builder.node("Gemm", [builder.value, *inputs], (5,), transB=1).build()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("bias", "weights"), [("int32", "codes"), ("tensor", "codes"), ("int32", "floats")])
def test_layers_with_quantized_constants(bias: str, weights: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    model = int8_layers(rng, bias, weights)
    plan = plan_of(model)
    layers = [region for region in plan.regions if isinstance(region.operation, Contraction)]
    assert [layer.op_type for layer in layers] == ["Conv", "MatMul", "Gemm", "Gemm"]
    for layer in layers:
        assert isinstance(layer.operation, Contraction) and isinstance(layer.operation.weights, Int8Weights)
        assert plan.values[layer.inputs[0]].holds_codes
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    bias_node = next(node for node in model.graph.node if node.output[0] == conv.input[2])
    shift = layers[0].stages[0]
    assert isinstance(shift, Affine)
    real = stored[bias_node.input[0]].astype(np.float32) * stored[bias_node.input[1]]
    np.testing.assert_array_equal(shift.shift, real)
    check_against_onnxruntime(model, plan, rng)


def test_quantized_operands_are_constants() -> None:
    """Tools quantize the constant of an Add or Mul as well."""
    rng = np.random.default_rng(5)
    builder = Builder(rng, (4, 5, 5)).quantize8()
    points = builder.constant("scale", np.float32(0.01)), builder.constant("point", np.uint8(7))
    values = builder.constant("values", rng.integers(0, 256, (1, 4, 1, 1)).astype(np.uint8))
    here = builder.value
    operand = builder.node("DequantizeLinear", [values, *points], (4, 1, 1)).value
    builder.value, builder.shape = here, (4, 5, 5)
    model = builder.node("Mul", [here, operand], (4, 5, 5)).build()
    plan = plan_of(model)
    assert sketch(plan) == ["Copy -> levels", "Copy Affine -> float"]
    check_against_onnxruntime(model, plan, rng)


REFUSED: list[tuple[Builder, str, type[LQCompileError]]] = [
    (
        quantizing_node("DequantizeLinear", np.ones((1, 4), np.int32), 0.1, np.int32(3)),
        r"\(DequantizeLinear\): found int32 codes with zero points, expected zero point 0; quantize biases symmetr",
        UnsupportedError,
    ),
    (
        quantizing_node("DequantizeLinear", np.ones((1, 4), np.int16), 0.1, np.int16(0)),
        r"\(DequantizeLinear\): found codes of type int16, expected uint8 or int8; quantize to 8 bits$",
        UnsupportedError,
    ),
    (
        quantizing_node("DequantizeLinear", np.ones((1, 4), np.int8), [0.1] * 3, None, axis=1),
        r"\(DequantizeLinear\): found \[3\] scales or zero points along axis 1 of \[1, 4\], expected one per entry of",
        ModelError,
    ),
    (
        quantizing_node("QuantizeLinear", np.ones((1, 4), np.float32), [[0.1] * 2], np.zeros((1, 2), np.int8)),
        r"\(QuantizeLinear\): scale is float32\[1, 2\] from 0\.1.*, expected positive float32\[\] or float32\[O\];",
        ModelError,
    ),
    (
        quantizing_node("QuantizeLinear", np.float32([[1, np.nan]]), 0.1, np.int8(0)),
        r"\(QuantizeLinear\): x has NaN or infinite entries, expected finite numbers; look for a diverged training",
        ModelError,
    ),
]


@pytest.mark.parametrize(("builder", "match", "error"), REFUSED)
def test_constants_that_are_refused(builder: Builder, match: str, error: type[LQCompileError]) -> None:
    model = builder.add("x").build()
    with pytest.raises(error, match=match) as caught:
        check(prepare(model))
    assert type(caught.value) is error
    assert random_input(np.random.default_rng(0), model)["x"].dtype == np.float32
