"""Float twins as torch modules, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from models import Builder
from onnx import helper, numpy_helper

torch = pytest.importorskip("torch")

from lqcompile.errors import ModelError  # noqa: E402
from lqcompile.float_twin import derive_float_twin  # noqa: E402
from lqcompile.gpu_bench.network import OPERATORS, torch_network  # noqa: E402
from lqcompile.graph.supported import SUPPORTED  # noqa: E402

TAKEN_AWAY = {"Constant", "DequantizeLinear", "QuantizeLinear"}
"""Supported operators that a float twin lacks, or that make no call."""


def check(model: onnx.ModelProto, x: np.ndarray) -> torch.fx.GraphModule:
    module = torch_network(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {session.get_inputs()[0].name: x})
    with torch.inference_mode():
        found = module(torch.from_numpy(x))
    assert len(found) == len(expected)
    for mine, reference in zip(found, expected, strict=True):
        np.testing.assert_allclose(mine.numpy(), reference, rtol=1e-4, atol=1e-5)
    return module


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: dict[str, tuple]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ("N", 4, 9, 11))],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def test_every_operator() -> None:
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    constants = {
        "w": normal(6, 4, 3, 2),
        "b": normal(6),
        "grouped": normal(8, 3, 3, 3),
        **{name: np.abs(normal(8)) + 0.5 for name in ("scale", "shift", "mean", "variance")},
        "low": np.float32(-1.5),
        "high": np.float32(1.25),
        "channels": normal(8, 1, 1),
        "half": np.float32(0.5),
        "slopes": normal(8, 1, 1),
        "vector": np.array([0, -1]),
        "last": np.array([2, 3]),
        "axes": np.array([2]),
        "fc": normal(10, 8),
        "fc_b": normal(10),
        "product": normal(10, 5),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w", "b"], ["a"], strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2]),
        node("Conv", ["a", "grouped"], ["c"], pads=[1, 1, 1, 1], group=2),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["d"], epsilon=1e-3),
        node("Relu", ["d"], ["e"]),
        node("MaxPool", ["e"], ["f"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        node("MaxPool", ["f"], ["g"], kernel_shape=[3, 3], pads=[0, 0, 2, 2], strides=[1, 1]),
        node("AveragePool", ["e"], ["h"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        node("AveragePool", ["e"], ["i"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1], count_include_pad=1),
        node("Add", ["f", "h"], ["j"]),
        node("Mul", ["j", "channels"], ["k"]),
        node("Sub", ["k", "half"], ["l"]),
        node("Div", ["l", "half"], ["m"]),
        node("Clip", ["m", "low", "high"], ["n"]),
        node("Identity", ["n"], ["o"]),
        node("HardSwish", ["o"], ["o1"]),
        node("HardSigmoid", ["o1"], ["o2"], alpha=0.3, beta=0.4),
        node("Sub", ["o2", "half"], ["o3"]),
        node("LeakyRelu", ["o3"], ["o4"], alpha=0.2),
        node("PRelu", ["o4", "slopes"], ["o5"]),
        node("Dropout", ["o5"], ["p"]),
        node("GlobalAveragePool", ["p"], ["q"]),
        node("Flatten", ["q"], ["r"]),
        node("Gemm", ["r", "fc", "fc_b"], ["s"], transB=1),
        node("Softmax", ["s"], ["t"], axis=1),
        node("MatMul", ["t", "product"], ["logits"]),
        node("ReduceMean", ["i", "last"], ["u"], keepdims=0),
        node("Constant", [], ["mirror"], value=numpy_helper.from_array(normal(8))),
        node("Mul", ["u", "mirror"], ["v"]),
        node("Reshape", ["q", "vector"], ["w_"]),
        node("Unsqueeze", ["w_", "axes"], ["y"]),
        node("Squeeze", ["y", "axes"], ["z"]),
        node("Concat", ["v", "z"], ["joined"], axis=1),
        node("Add", ["f", "i"], ["image"]),
    ]
    outputs = {"logits": ("N", 5), "joined": ("N", 16), "image": ("N", 8, 5, 10), "g": ("N", 8, 5, 10)}
    kinds = {entry.op_type for entry in nodes}
    assert kinds - {"Constant"} == set(OPERATORS), "every operator is tried"
    assert set(OPERATORS) == set(SUPPORTED) - TAKEN_AWAY, "every operator that is compiled has a counterpart"
    module = check(model_of(nodes, constants, outputs), normal(3, 4, 9, 11))
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules()), "folded"


def test_a_norm_stays_where_something_else_reads_the_convolution() -> None:
    rng = np.random.default_rng(1)
    constants = {"w": rng.normal(size=(4, 4, 1, 1)).astype(np.float32)}
    constants |= {name: rng.uniform(0.5, 1.5, 4).astype(np.float32) for name in ("s", "h", "m", "v")}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("BatchNormalization", ["a", "s", "h", "m", "v"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model = model_of(nodes, constants, {"y": ("N", 4, 9, 11)})
    module = check(model, rng.normal(size=(2, 4, 9, 11)).astype(np.float32))
    assert any(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules())


def test_the_twin_of_a_low_bit_network() -> None:
    rng = np.random.default_rng(2)
    builder = Builder(rng, (6, 8, 8)).quantize(2).conv(8, bits=2).batch_norm().relu().max_pool()
    model = builder.quantize(2).flatten().linear(5, bits=1).build()
    check(derive_float_twin(model), rng.normal(size=(3, 6, 8, 8)).astype(np.float32))


@pytest.mark.parametrize(
    ("node", "found"),
    [
        (helper.make_node("Tanh", ["x"], ["y"], name="odd"), "an operator without a counterpart in torch"),
        (helper.make_node("Gemm", ["x", "w"], ["y"], name="odd", alpha=2.0), "alpha, beta or transA"),
        (helper.make_node("Conv", ["x", "x"], ["y"], name="odd"), "its input 'x' computed"),
        (
            helper.make_node("AveragePool", ["x"], ["y"], name="odd", kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
            r"pads \[0, 0, 1, 1\]",
        ),
        (
            helper.make_node("MaxPool", ["x"], ["y"], name="odd", kernel_shape=[2, 2], auto_pad="SAME_UPPER"),
            "auto_pad SAME_UPPER",
        ),
        (helper.make_node("MaxPool", ["x"], ["y"], name="odd", kernel_shape=[2, 2], ceil_mode=1), "ceil_mode"),
    ],
)
def test_what_has_no_counterpart_names_the_node(node: onnx.NodeProto, found: str) -> None:
    model = model_of([node], {"w": np.ones((4, 4), np.float32)}, {"y": ("N", 4, 9, 11)})
    message = (
        rf"^node 'odd' \({node.op_type}\): found {found}, expected what torch peers take \(Add, .+\); leave them out"
    )
    with pytest.raises(ModelError, match=message):
        torch_network(model)
