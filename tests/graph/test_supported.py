import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from models import Builder, run_onnxruntime
from onnx import helper, numpy_helper

from lqcompile.errors import ModelError, UnsupportedError
from lqcompile.graph.check import check
from lqcompile.graph.load import prepare
from lqcompile.graph.schema import OPERATORS
from lqcompile.graph.supported import SUPPORTED, check_standard

ONES = np.ones
F32 = np.float32


def rng() -> np.random.Generator:
    return np.random.default_rng(12)


def refuse(model: onnx.ModelProto, match: str, error: type[ModelError] = ModelError) -> None:
    with pytest.raises(error, match=match) as caught:
        check(prepare(model))
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def every_operator() -> onnx.ModelProto:
    """A model with every supported operator, which ONNX Runtime runs."""
    builder = Builder(rng(), (3, 12, 12))
    builder.quantize8().conv8(8).batch_norm().relu().max_pool(3, 2, 1)
    entry = builder.value
    builder.quantize(2).conv(8).per_channel("Mul").per_channel("Sub").per_channel("Div").per_channel("Add")
    builder.activation("HardSwish").activation("LeakyRelu").activation("PRelu").activation("HardSigmoid")
    builder.add(entry).clip(-1.0, 2.0).concat(entry).average_pool(2, 2, 0)
    image = builder.value
    axes = builder.constant("axes", np.array([2, 3]))
    builder.node("ReduceMean", [image, axes], (16, 1, 1), keepdims=1)
    builder.node("Squeeze", [builder.value, axes], (16,)).node("Unsqueeze", [builder.value, axes], (16, 1, 1))
    mean = builder.value
    builder.at(image).global_average_pool().add(mean).flatten()
    shape = builder.constant("shape", np.array([-1, 16, 1, 1]))
    builder.node("Reshape", [builder.value, shape], (16, 1, 1)).flatten()
    builder.node("Dropout", [builder.value], (16,)).quantize(1).linear(12).node("Identity", [builder.value], (12,))
    weight = builder.constant("weight", np.eye(12, 7, dtype=np.float32))
    builder.node("MatMul", [builder.value, weight], (7,)).quantize8().gemm8(5).softmax()
    model = builder.build()
    value = numpy_helper.from_array(np.array([2, 3]), "")
    model.graph.node.insert(0, helper.make_node("Constant", [], ["axes_node"], value=value))
    next(node for node in model.graph.node if node.op_type == "ReduceMean").input[1] = "axes_node"
    return model


def test_every_operator_passes():
    model = every_operator()
    assert set(SUPPORTED) == {node.op_type for node in model.graph.node} - set(OPERATORS)
    check(prepare(model))
    (y,) = run_onnxruntime(model, {"x": np.zeros((2, 3, 12, 12), np.float32)})
    assert y.shape == (2, 5)


def after(builder: Builder, op_type: str, *inputs: Any, shape: tuple[int, ...] | None = None, **attributes: Any) -> Any:
    """Append a node whose further inputs are constants, and build."""
    names = [array if isinstance(array, str) else builder.constant("c", array) for array in inputs]
    return builder.node(
        op_type, [builder.value, *names], builder.shape if shape is None else shape, **attributes
    ).build()


def image(*shape: int) -> Builder:
    return Builder(rng(), shape or (3, 8, 8))


def constant_first(op_type: str) -> onnx.ModelProto:
    builder = image()
    return builder.node(op_type, [builder.constant("c", np.float32(2)), "x"], builder.shape).build()


def two_constants() -> onnx.ModelProto:
    builder = image(3)
    pair = [builder.constant("c", ONES((1, 3), F32)) for _ in range(2)]
    sums = builder.node("Add", pair, (3,)).value
    return builder.node("Add", ["x", sums], (3,)).build()


def training_batch_norm() -> onnx.ModelProto:
    model = after(image(2), "BatchNormalization", *[ONES(2, F32)] * 4, training_mode=1)
    model.graph.node[0].output.extend(["mean", "variance"])
    return model


def crossed_product() -> onnx.ModelProto:
    """A product of a column and a row."""
    builder = image(3, 8, 8)
    column = builder.node("AveragePool", ["x"], (3, 8, 1), kernel_shape=[1, 8]).value
    row = builder.node("AveragePool", ["x"], (3, 1, 8), kernel_shape=[8, 1]).value
    return builder.node("Mul", [column, row], (3, 8, 8)).build()


def mask_in_use() -> onnx.ModelProto:
    model = image(3).node("Dropout", ["x"], (3,)).build()
    model.graph.node[0].output.append("mask")
    model.graph.output.append(helper.make_tensor_value_info("mask", onnx.TensorProto.BOOL, ["N", 3]))
    return model


UNSUPPORTED: list[tuple[Callable[[], onnx.ModelProto], str]] = [
    (
        lambda: after(image(), "Sin"),
        r"^node 'sin_0' \(Sin\): found an operator that is not supported, expected one of Add, .*; replace",
    ),
    (
        lambda: after(image(3, 8), "Conv", ONES((4, 3, 3), F32), shape=(4, 6)),
        r"\(Conv\): found an input of rank 3, expected 4 \[N,C,H,W\]; reshape it before$",
    ),
    (
        lambda: after(image(), "Conv", ONES((4, 2, 3, 3), F32), shape=(4, 6, 6)),
        r"\(Conv\): found 3 input channels and group=1 for weights \[4, 2, 3, 3\], expected 2 input channels and",
    ),
    (
        lambda: after(image(5), "Gemm", ONES((5, 4), F32), shape=(4,), alpha=float("inf")),
        r"\(Gemm\): found alpha=inf, expected a finite number; look for a diverged training run$",
    ),
    (
        lambda: after(image(5), "Gemm", ONES((5, 4), F32), ONES(4, F32), shape=(4,), beta=float("nan")),
        r"\(Gemm\): found beta=nan, expected a finite number; look for a diverged training run$",
    ),
    (
        lambda: after(image(4, 6), "MatMul", ONES((6, 4), F32), shape=(4, 4)),
        r"\(MatMul\): found an input of rank 3, expected 2 \[N,C\]; reshape it before$",
    ),
    (
        lambda: after(image(6), "MatMul", ONES(6, F32), shape=()),
        r"\(MatMul\): found weights of shape \[6\], expected \[C,O\]; export a linear layer$",
    ),
    (
        lambda: after(image(), "Sub", "x"),
        r"\(Sub\): found two computed inputs, expected one of them constant; only Add and Mul join two branches$",
    ),
    (
        crossed_product,
        r"\(Mul\): found samples of \[3, 8, 1\] and \[3, 1, 8\], expected equal shapes or one number per channel,",
    ),
    (
        lambda: after(image(), "PRelu", ONES((8, 8), F32)),
        r"\(PRelu\): found a constant of shape \[8, 8\], expected a scalar or one per channel; simplify the model$",
    ),
    (
        lambda: after(image(), "LeakyRelu", alpha=float("nan")),
        r"\(LeakyRelu\): found alpha=nan, expected a finite number; look for a diverged training run$",
    ),
    (
        lambda: after(image().global_average_pool(), "Add", "x", shape=(3, 8, 8)),
        r"\(Add\): found samples of \[3, 1, 1\] and \[3, 8, 8\], expected equal shapes; expand the smaller one before$",
    ),
    (
        lambda: after(image(), "Add", ONES((8, 8), F32)),
        r"\(Add\): found a constant of shape \[8, 8\], expected a scalar or one per channel; simplify the model$",
    ),
    (
        lambda: after(image().relu(), "Add", ONES((3, 8, 8), F32)),
        r"\(Add\): found a constant of shape \[3, 8, 8\], expected a scalar or one per channel",
    ),
    (
        lambda: after(image(), "Div", np.zeros((3, 1, 1), F32)),
        r"\(Div\): found a division by 0, expected other divisors; look for a diverged training run$",
    ),
    (
        lambda: after(image(), "MaxPool", kernel_shape=[2, 2], dilations=[2, 2], shape=(3, 6, 6)),
        r"\(MaxPool\): found dilations, expected none; pool without dilation$",
    ),
    (
        lambda: after(image(3, 8), "GlobalAveragePool", shape=(3, 1)),
        r"\(GlobalAveragePool\): found an input of rank 3, expected 4 \[N,C,H,W\]; reshape it before$",
    ),
    (
        lambda: after(image(), "ReduceMean", np.array([1]), shape=(1, 8, 8)),
        r"\(ReduceMean\): found axes \[1\], expected the two of the image, \[2, 3\]; use a global average pool$",
    ),
    (
        lambda: after(image(), "Concat", "x", axis=2, shape=(3, 16, 8)),
        r"\(Concat\): found axis=2 of rank 4, expected the channels, axis 1; move the channels there$",
    ),
    (
        lambda: after(image(), "Softmax", axis=-1),
        r"\(Softmax\): found axis=-1 of rank 4, expected the channels, axis 1",
    ),
    (
        lambda: after(image(), "Reshape", np.array([-1, 8, 3, 8]), shape=(8, 3, 8)),
        r"\(Reshape\): found samples of \[3, 8, 8\] turned into \[8, 3, 8\], expected a vector .* from axis 1 on$",
    ),
    *(
        (
            lambda shape=shape: after(image(), "Conv", ONES((4, 3, 1, 1), F32), ONES(shape, F32), shape=(4, 8, 8)),
            rf"\(Conv\): found a bias of shape {re.escape(str(list(shape)))}, expected \[4\]; export the model again$",
        )
        for shape in ((0,), (1,), (3,), (1, 4))
    ),
    (
        lambda: after(image(5), "Gemm", ONES((4, 2), F32), shape=(2,), transA=1),
        r"\(Gemm\): found transA=1, expected 0; export a linear layer$",
    ),
    (
        lambda: after(image(5), "Gemm", ONES((5, 4), F32), ONES((2, 1), F32), shape=(4,)),
        r"\(Gemm\): found a bias of shape \[2, 1\], expected one per output; add it separately$",
    ),
    (
        lambda: after(image(5), "Gemm", ONES((5, 4), F32), ONES((4, 1), F32), shape=(4,)),
        r"\(Gemm\): found a bias of shape \[4, 1\], expected one per output; add it separately$",
    ),
    (
        lambda: constant_first("Div"),
        r"\(Div\): found a constant numerator, expected a computed value first; simplify the model before the export$",
    ),
    (
        two_constants,
        r"\(Add\): found two constants, expected a computed value first; simplify the model before the export$",
    ),
    (
        lambda: after(image(), "Clip", np.zeros(2, F32)),
        r"\(Clip\): found min with several entries, expected a scalar; clip with one bound$",
    ),
    (
        training_batch_norm,
        r"\(BatchNormalization\): found training_mode=1, expected 0; call model\.eval\(\) before the export$",
    ),
    (
        lambda: after(image(), "Dropout", np.float32(0.5), np.array(True)),
        r"\(Dropout\): found training_mode=1, expected 0; call model\.eval\(\) before the export$",
    ),
    (
        mask_in_use,
        r"\(Dropout\): found its output 'mask' in use, expected only the first output; drop what reads it$",
    ),
]


@pytest.mark.parametrize(("make", "match"), UNSUPPORTED)
def test_unsupported_nodes(make, match):
    refuse(make(), match, UnsupportedError)


def test_reshape_that_moves_the_batch():
    model = after(Builder(rng(), (4, 2, 2), batch=2), "Reshape", np.array([4, 2, 2, 2]), shape=(2, 2, 2))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    refuse(model, r"\(Reshape\): found samples of \[4, 2, 2\] turned into \[2, 2, 2\], expected", UnsupportedError)
    model = after(Builder(rng(), (4, 2), batch=2), "Reshape", np.array([4, 4]), shape=(4,))
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 4
    refuse(model, r"\(Reshape\): found samples of \[4, 2\] turned into \[4\], expected", UnsupportedError)


def test_scalars_and_either_side_pass():
    builder = image(3, 4, 4)
    half = builder.constant("half", np.float32(0.5))
    channel = builder.constant("channel", ONES((3, 1, 1), F32))
    builder.node("Sub", [half, "x"], (3, 4, 4)).node("Mul", [channel, builder.value], (3, 4, 4))
    builder.node("Div", [builder.value, half], (3, 4, 4))
    check(prepare(builder.build()))


def test_ceil_mode_that_changes_nothing_passes():
    check(prepare(after(image(), "MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, shape=(3, 4, 4))))


def test_mean_with_axes_as_attribute_passes():
    builder = Builder(rng(), (3, 8, 8), opset=13)
    check(prepare(after(builder, "ReduceMean", axes=[-1, -2], shape=(3, 1, 1))))


def test_weights_that_are_not_finite():
    weights = ONES((4, 3, 3, 3), F32)
    weights[1, 2, 0, 0] = np.nan
    refuse(
        after(image(), "Conv", weights, shape=(4, 6, 6)),
        r"\(Conv\): weight has NaN or infinite entries, expected finite",
    )


def test_weights_of_another_rank():
    model = after(image(), "Conv", ONES((4, 3, 3, 3), F32), kernel_shape=[3, 3], shape=(4, 6, 6))
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(ONES((4, 3, 9), F32), model.graph.initializer[0].name))
    refuse(model, r"\(Conv\): weights are \[4, 3, 9\] with kernel_shape=\[3, 3\], expected \[O,C/group,kh,kw\]; export")


def test_kernel_shape_that_is_not_of_the_weights():
    model = after(image(), "Conv", ONES((4, 3, 3, 3), F32), kernel_shape=[2, 2], shape=(4, 7, 7))
    refuse(model, r"\(Conv\): weights are \[4, 3, 3, 3\] with kernel_shape=\[2, 2\], expected \[O,C/group,kh,kw\];")


def test_computed_weights():
    model = Builder(rng(), (4, 4)).node("MatMul", ["x", "x"], (4, 4)).build()
    refuse(model, r"\(MatMul\): found an input of rank 3", UnsupportedError)
    builder = Builder(rng(), (4,), batch=4)
    refuse(
        after(builder, "MatMul", "x"), r"\(MatMul\): weight: found the computed value 'x', expected a constant; export"
    )


def test_weights_of_another_type():
    model = after(image(5), "MatMul", ONES((5, 4), np.float64), shape=(4,))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    loaded = prepare(model)
    with pytest.raises(
        UnsupportedError, match=r"\(MatMul\): found weight of type float64, expected float32; convert the"
    ):
        check_standard(next(iter(loaded.graph)))
