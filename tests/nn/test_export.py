import os
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lqcompile.encoding import activation_levels, unpack_planes
from lqcompile.errors import BuildError, QuantizationError
from lqcompile.graph.check import load_checked
from lqcompile.integer_basis import round_to_significant_bits
from lqcompile.nn import LQConv2d, LQLinear, calibrate, export, quantize

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same'")


class Net(nn.Module):
    """A first and last layer, a residual, pooling, batch norm after a quantized convolution, asymmetric padding."""

    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(width)
        self.same = nn.Conv2d(width, width, (2, 4), padding="same", groups=2, bias=False)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(self.norm2(F.max_pool2d(self.conv(x), 2)))
        x = F.relu(self.same(x) + x)
        return self.head(F.relu(self.hidden(x.mean((2, 3)))))


def constants(path):
    proto = onnx.load(path)
    return proto, {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def nodes(proto, *types):
    return [node for node in proto.graph.node if node.op_type in types]


def run(path, x):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})[0]


def exported(tmp_path, *bits, width=16, **options):
    net = Net(width)
    for _ in range(3):
        net(torch.randn(32, 1, 8, 8))
    quantize(net, *bits, **options)
    calibrate(net, [torch.randn(64, 1, 8, 8)])
    path = tmp_path / "net.onnx"
    export(net, torch.randn(4, 1, 8, 8), path)
    return net.eval(), path


@pytest.mark.parametrize(("weight_bits", "basis"), [(1, "float"), (2, "int8"), (3, "float"), (4, "int8")])
def test_file_follows_the_contract(seed, tmp_path, weight_bits, basis):
    net, path = exported(tmp_path, weight_bits, 5 - weight_bits, basis=basis, edge_bits=8)
    load_checked(path)
    proto, values = constants(path)
    assert proto.ir_version <= 10
    quantizers = nodes(proto, "LQQuantize")
    assert len(quantizers) == 3
    for node in quantizers:
        thresholds, levels, vectors, codes, offset, scale = (values[name] for name in node.input[1:])
        bits = 5 - weight_bits
        assert thresholds.shape == (2**bits - 1,) and sorted(codes) == list(range(2**bits))
        expected, order = activation_levels(vectors.astype(np.float64) * float(scale), float(offset))
        assert np.array_equal(levels, expected.astype(np.float32)) and np.array_equal(codes, order)
        if basis == "int8":
            assert np.array_equal(vectors, vectors.round()) and vectors.min() >= 0 and vectors.sum() <= 255
            assert scale == round_to_significant_bits(scale) and scale > 0
            assert np.array_equal(levels, expected)
    layers = nodes(proto, "LQConv", "LQLinear")
    sources = [net.conv, net.same, net.hidden]
    for node, layer in zip(layers, sources, strict=True):
        planes, vectors, offset, _, scale = (values[name] for name in node.input[1:])
        attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        assert attributes["integer_basis"] == (basis == "int8")
        assert attributes["weight_shape"] == list(layer.weight.shape)
        signs = 2.0 * unpack_planes(planes, layer.weight[0].numel()) - 1
        weight = offset[:, None] + scale[:, None] * (signs * vectors[:, :, None]).sum(1, dtype=np.float64)
        quantized = layer.weight_quantizer(layer.weight).detach().numpy().reshape(weight.shape)
        np.testing.assert_allclose(quantized, weight, rtol=1e-6, atol=1e-7)
        if basis == "int8":
            assert np.array_equal(quantized, weight)
            assert np.array_equal(vectors, vectors.round()) and np.abs(vectors).sum(1).max() <= 127
    (asymmetric,) = [node for node in layers if list(values[node.input[1]].shape)[2] == 8]
    pads = {entry.name: list(entry.ints) for entry in asymmetric.attribute}["pads"]
    assert pads == [0, 1, 1, 2]


def test_eight_bit_layers_are_standard_qdq_on_int8_weights(seed, tmp_path):
    net, path = exported(tmp_path, 2, 2, edge_bits=8)
    proto, values = constants(path)
    producers = {node.output[0]: node for node in proto.graph.node}
    conv, gemm = nodes(proto, "Conv")[0], nodes(proto, "Gemm")[0]
    for node, layer in ((conv, net.stem), (gemm, net.head)):
        weight, act = producers[node.input[1]], producers[node.input[0]]
        assert (weight.op_type, act.op_type) == ("DequantizeLinear", "DequantizeLinear")
        integers, scale = values[weight.input[0]], values[weight.input[1]]
        assert integers.dtype == np.int8 and integers.shape == tuple(layer.weight.shape)
        assert scale.shape == (len(integers),) and not values[weight.input[2]].any()
        assert producers[act.input[0]].op_type == "QuantizeLinear" and values[act.input[2]].dtype == np.uint8
    assert [entry.i for entry in gemm.attribute if entry.name == "transB"] == [1]


@pytest.mark.parametrize("bits", [(2, 2), (3, None)])
def test_onnx_runtime_agrees_on_any_batch(seed, tmp_path, bits):
    net, path = exported(tmp_path, *bits)
    for batch in (1, 3, 17):
        x = torch.randn(batch, 1, 8, 8)
        with torch.no_grad():
            expected = net(x).numpy()
        found = run(path, x)
        assert found.shape == expected.shape
        # A code may flip where a sum lies within rounding of a threshold: hence the mean.
        assert np.abs(found - expected).mean() <= 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("weight_bits", [1, 2])
def test_size_is_within_15_percent_of_packed_bits_and_floats(seed, tmp_path, weight_bits):
    net, path = exported(tmp_path, weight_bits, 2, width=256)
    low_bit = [module for module in net.modules() if isinstance(module, LQConv2d | LQLinear)]
    packed = sum(module.weight.numel() * weight_bits / 8 for module in low_bit)
    quantized = {id(module.weight) for module in low_bit}
    floats = 4 * sum(parameter.numel() for parameter in net.parameters() if id(parameter) not in quantized)
    floats += 4 * sum(module.weight_quantizer.basis.numel() for module in low_bit)
    assert path.stat().st_size <= 1.15 * (packed + floats)


def test_nothing_of_this_machine_in_the_file(seed, tmp_path):
    _, path = exported(tmp_path, 2, 2)
    content = path.read_bytes()
    assert not re.search(rb"\.py|site-packages|Traceback", content)
    assert os.fsencode(Path.cwd()) not in content


def test_float_models_export_too(seed, tmp_path):
    net, path = Net().eval(), tmp_path / "float.onnx"
    export(net, torch.randn(1, 1, 8, 8), path)
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        np.testing.assert_allclose(run(path, x), net(x), rtol=1e-4, atol=1e-5)
    assert not onnx.load(path).functions


def test_linear_layers_of_higher_rank(seed, tmp_path):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2, bias=False))
    calibrate(quantize(net, edge_bits=8), [torch.randn(32, 5, 6)])
    path, x = tmp_path / "mlp.onnx", torch.randn(3, 5, 6)
    export(net, x, path)
    proto, _ = constants(path)
    assert len(nodes(proto, "Gemm")) == 2 and len(nodes(proto, "LQLinear")) == 1
    found = ort.InferenceSession(str(path)).run(None, {proto.graph.input[0].name: x.numpy()})[0]
    with torch.no_grad():
        expected = net.eval()(x).numpy()
    assert found.shape == expected.shape
    # A code may flip where a sum lies within rounding of a threshold: hence the median.
    assert np.median(np.abs(found - expected)) <= 1e-4


def test_the_model_is_left_as_it_was(seed, tmp_path):
    net = quantize(Net(), edge_bits=8)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    export(net, torch.randn(4, 1, 8, 8), tmp_path / "net.onnx")
    assert net.training and isinstance(net.conv, LQConv2d)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_a_basis_that_is_not_snapped_is_refused(tmp_path):
    net = quantize(Net(), basis="int8")
    with pytest.raises(QuantizationError, match=r"layer 'conv.act_quantizer': found a float basis, expected integers"):
        export(net, torch.randn(4, 1, 8, 8), tmp_path / "net.onnx")


def test_a_basis_that_is_not_finite_is_refused(tmp_path):
    net = quantize(Net())
    net.hidden.weight_quantizer.basis[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match=r"'hidden\.weight_quantizer': found NaN or infinity in its basis"):
        export(net, torch.randn(4, 1, 8, 8), tmp_path / "net.onnx")


def test_a_range_that_is_not_finite_is_refused(tmp_path):
    net = quantize(Net(), edge_bits=8)
    net.stem.act_quantizer.high.fill_(float("inf"))
    with pytest.raises(QuantizationError, match=r"'stem\.act_quantizer': found the range 0\.0\.\.inf, expected finite"):
        export(net, torch.randn(4, 1, 8, 8), tmp_path / "net.onnx")


class DataDependent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else x


def test_what_torch_cannot_trace_is_refused_and_nothing_is_written(tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"before")
    with pytest.raises(QuantizationError, match=r"model DataDependent: torch cannot export it with a dynamic batch \("):
        export(DataDependent(), torch.randn(4, 4), path)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


def test_an_example_without_samples_is_refused(tmp_path):
    with pytest.raises(QuantizationError, match=r"export example: found shape \[0, 4\], expected a batch of at least"):
        export(nn.Linear(4, 4), torch.randn(0, 4), tmp_path / "net.onnx")


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(BuildError, match="found no folder"):
        export(nn.Linear(4, 4), torch.randn(2, 4), tmp_path / "missing" / "net.onnx")
