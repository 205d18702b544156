import numpy as np
import onnx
import pytest
import torch
from torch import nn

from lqcompile.errors import QuantizationError
from lqcompile.nn import calibrate, export, quantize
from lqcompile.nn.frozen import freeze
from lqcompile.nn.gate import check_export, compare_output


@pytest.fixture
def case(seed, tmp_path):
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(64, 6)
    calibrate(quantize(net), [x])
    export(net, x, tmp_path / "net.onnx")
    return onnx.load(tmp_path / "net.onnx"), freeze(net), (x,)


def test_a_true_export_passes(case):
    check_export(*case)


def test_a_file_that_onnx_runtime_refuses(case):
    proto, frozen, inputs = case
    del proto.functions[:]
    with pytest.raises(QuantizationError, match=r"export: ONNX Runtime \S+ refuses the file \(.*LQ"):
        check_export(proto, frozen, inputs)


def test_a_wrong_level(case):
    proto, frozen, inputs = case
    (body,) = [function for function in proto.functions if function.name == "LQQuantize"]
    for node in body.node:
        if node.op_type == "Greater":
            node.op_type = "Less"
    with pytest.raises(QuantizationError, match=r"\(lqcompile::LQQuantize\): found \d+ of 512 wrong levels in ONNX"):
        check_export(proto, frozen, inputs)


def test_a_wrong_output(case):
    proto, frozen, inputs = case
    (bias,) = [tensor for tensor in proto.graph.initializer if tensor.name == "4.bias"]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(2, 9, np.float32), bias.name))
    with pytest.raises(QuantizationError, match=r"output '\w+': ONNX Runtime differs from torch by .* \(mean diff"):
        check_export(proto, frozen, inputs)


def test_tolerances():
    want = np.array([[1.0, -10.0]], np.float32)
    compare_output("y", want + 5e-4, want, has_codes=False)
    with pytest.raises(QuantizationError, match=r"by 0\.002 of the largest value \(largest difference\), expected"):
        compare_output("y", want + 0.02, want, has_codes=False)
    compare_output("y", want + 0.02, want, has_codes=True)
    with pytest.raises(QuantizationError, match="differs from torch by nan"):
        compare_output("y", want * np.nan, want, has_codes=True)


def test_shapes_must_agree():
    with pytest.raises(QuantizationError, match=r"found shape \(2,\) in ONNX Runtime, expected \(3,\) as in torch"):
        compare_output("y", np.zeros(2), np.zeros(3), has_codes=False)
