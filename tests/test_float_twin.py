"""The float twin: the same network in standard float operators."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from lqcompile import encoding
from lqcompile.errors import ModelError
from lqcompile.float_twin import derive_float_twin
from lqcompile.graph import functions, schema


def low_bit(rng, shape, bits=2):
    """Parameters of an LQConv or LQLinear in the order of its inputs, and the weight that they stand for."""
    rows, length = shape[0], int(np.prod(shape[1:]))
    codes = rng.integers(0, 2, (rows, bits, length))
    basis = rng.uniform(0.1, 1, (rows, bits)).astype(np.float32)
    offset, bias = (rng.normal(size=rows).astype(np.float32) for _ in range(2))
    weight = offset[:, None] + np.einsum("oi,oim->om", basis, 2 * codes - 1.0)
    return [encoding.pack_planes(codes), basis, offset, bias, np.ones(rows, np.float32)], weight.reshape(shape)


def quantizer(basis):
    levels, codes = encoding.activation_levels(basis)
    thresholds = encoding.midpoint_thresholds(levels)
    arrays = [thresholds, levels, np.asarray(basis), codes, np.float32(0), np.float32(1)]
    return [np.asarray(array, np.uint8 if index == 3 else np.float32) for index, array in enumerate(arrays)]


class Net:
    """Collects nodes and constants into a model on the input ``x``."""

    def __init__(self):
        self.nodes, self.constants = [], []

    def add(self, op, inputs, output, constants=(), **attributes):
        names = [f"{output}_{index}" for index in range(len(constants))]
        for array, name in zip(constants, names, strict=True):
            self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        domain = schema.DOMAIN if op.startswith("LQ") else ""
        self.nodes.append(helper.make_node(op, [*inputs, *names], [output], name=output, domain=domain, **attributes))

    def model(self, *shape):
        """The model; its output has as many axes as its input."""
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [value("x", onnx.TensorProto.FLOAT, ["N", *shape])],
            [value(self.nodes[-1].output[0], onnx.TensorProto.FLOAT, ["N", *(None for _ in shape)])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        functions.attach(model)
        return model


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def standard(model):
    """The operators of a model, all of the standard domain."""
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    onnx.checker.check_model(model, full_check=True)
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("seed", range(3))
def test_weight_only_convolution_is_the_same_function(seed):
    rng = np.random.default_rng(seed)
    parameters, _ = low_bit(rng, (6, 2, 3, 3), bits=int(rng.integers(1, 5)))
    net = Net()
    attributes = {"strides": [2, 1], "pads": [1, 0, 2, 1], "dilations": [1, 2], "group": 2, "integer_basis": 0}
    net.add("LQConv", ["x"], "y", parameters, weight_shape=[6, 2, 3, 3], **attributes)
    model = net.model(4, 9, 9)
    x = rng.normal(size=(2, 4, 9, 9)).astype(np.float32)
    twin = derive_float_twin(model)
    assert standard(twin) == ["Conv"]
    np.testing.assert_allclose(run(twin, x), run(model, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shape", "operators"), [((10,), ["Gemm"]), ((3, 10), ["MatMul", "Add"])])
def test_linear_on_matrices_and_on_more_axes(shape, operators):
    rng = np.random.default_rng(len(shape))
    parameters, weight = low_bit(rng, (5, 10))
    net = Net()
    net.add("LQLinear", ["x"], "y", parameters, weight_shape=[5, 10], integer_basis=0)
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    twin = derive_float_twin(net.model(*shape))
    assert standard(twin) == operators
    np.testing.assert_allclose(run(twin, x), x @ weight.T + parameters[3], rtol=1e-4, atol=1e-4)


def test_quantizer_after_relu_goes_and_elsewhere_clips():
    rng = np.random.default_rng(0)
    parameters, weight = low_bit(rng, (5, 8))
    net = Net()
    net.add("LQQuantize", ["x"], "q0", quantizer([0.5, 1.0]), integer_basis=0)
    net.add("LQLinear", ["q0"], "l", parameters, weight_shape=[5, 8], integer_basis=0)
    net.add("Relu", ["l"], "r")
    net.add("LQQuantize", ["r"], "y", quantizer([0.25, 0.5]), integer_basis=0)
    twin = derive_float_twin(net.model(8))
    assert standard(twin) == ["Clip", "Gemm", "Relu", "Identity"]
    x = rng.normal(size=(4, 8)).astype(np.float32)
    expected = np.maximum(np.clip(x, 0, 1.5) @ weight.T + parameters[3], 0)
    np.testing.assert_allclose(run(twin, x), expected, rtol=1e-4, atol=1e-4)


def test_eight_bit_layers_become_float():
    rng = np.random.default_rng(1)
    weight = rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8)
    scale = rng.uniform(0.001, 0.01, 4).astype(np.float32)
    net = Net()
    net.add("QuantizeLinear", ["x"], "xq", [np.float32(0.02), np.uint8(128)])
    net.add("DequantizeLinear", ["xq"], "xd", [np.float32(0.02), np.uint8(128)])
    net.add("DequantizeLinear", [], "w", [weight, scale, np.zeros(4, np.int8)], axis=0)
    net.add("Conv", ["xd", "w"], "y", pads=[1, 1, 1, 1])
    model = net.model(3, 6, 6)
    twin = derive_float_twin(model)
    assert standard(twin) == ["Conv"]
    np.testing.assert_array_equal(
        numpy_helper.to_array(twin.graph.initializer[0]), weight.astype(np.float32) * scale.reshape(4, 1, 1, 1)
    )
    x = rng.uniform(-2, 2, (2, 3, 6, 6)).astype(np.float32)
    largest = 0.01 * np.abs(weight * scale.reshape(4, 1, 1, 1)).sum(axis=(1, 2, 3)).max() * 1.01
    assert np.abs(run(twin, x) - run(model, x)).max() <= largest  # half a step of 0.02 on each input


def test_computed_parameter():
    net = Net()
    parameters, _ = low_bit(np.random.default_rng(0), (5, 8))
    net.add("LQLinear", ["x"], "y", parameters, weight_shape=[5, 8], integer_basis=0)
    model = net.model(8)
    model.graph.node[0].input[2] = "x"
    with pytest.raises(
        ModelError, match=r"node 'y' \(lqcompile::LQLinear\): input 'x' is computed, expected a constant"
    ):
        derive_float_twin(model)
