"""Timing and the peers: fair, and real."""

import importlib.util
import sys
import time

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from lqcompile.bench import BenchReport, Timing, bench, measure, open_peers
from lqcompile.errors import InputError, LQCompileError, ModelError
from lqcompile.openvino_peer import OpenVinoModel
from lqcompile.peers import FP32, INT8, OPENVINO_FP32, OPENVINO_INT8, open_peer, parse_peers


def float_net(path, rng, channels=8):
    """Conv, BatchNormalization, Relu, GlobalAveragePool, Flatten, Gemm on float32[N,3,8,8]."""
    shapes = {"w": (channels, 3, 3, 3), "s": channels, "b": channels, "m": channels, "f": (4, channels), "fb": 4}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrays["v"] = rng.uniform(0.5, 1, channels).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["l"]),
        helper.make_node("Gemm", ["l", "f", "fb"], ["y"], transB=1),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "net",
        [value("x", onnx.TensorProto.FLOAT, ["N", 3, 8, 8])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_measure_tells_slow_from_quick_and_interleaves():
    order = []

    def runner(name, seconds):
        def call():
            order.append(name)
            time.sleep(seconds)

        return call

    seen = []
    timings = measure(
        {"quick": runner("quick", 0.003), "slow": runner("slow", 0.009)}, 5, lambda *event: seen.append(event)
    )
    assert 3 <= timings["quick"].median_ms < timings["slow"].median_ms
    assert timings["slow"].median_ms >= 9
    assert timings["quick"].p90_ms >= timings["quick"].median_ms
    assert order[-10:] == ["quick", "slow", "slow", "quick"] * 2 + ["quick", "slow"]
    assert seen[-1] == ("timing", 1.0)
    assert len(seen) == 5


def test_quick_runners_are_called_often_enough_to_read_the_clock():
    calls = []
    measure({"quick": lambda: calls.append(1)}, 3)
    assert len(calls) > 1000


def test_measure_needs_a_round():
    with pytest.raises(InputError, match=r"repeats: found 0, expected at least 1"):
        measure({"a": lambda: None}, 0)


def test_report_keys():
    report = BenchReport(
        compiled=Timing(median_ms=2.0, p90_ms=3.0),
        against={FP32: Timing(median_ms=5.0, p90_ms=6.0)},
        threads=1,
        repeats=7,
        batch=4,
        details={"cpu": "test"},
    )
    assert report.to_json() == {
        "median_ms": 2.0,
        "p90_ms": 3.0,
        "threads": 1,
        "repeats": 7,
        "batch": 4,
        "against": {FP32: {"median_ms": 5.0, "p90_ms": 6.0, "ratio": 2.5}},
        "cpu": "test",
    }


def test_peer_names():
    assert parse_peers("onnxruntime-int8, onnxruntime-fp32") == (INT8, FP32)
    assert parse_peers("none") == parse_peers("") == ()
    assert parse_peers("openvino-int8") == (OPENVINO_INT8,)
    known = "onnxruntime-fp32, onnxruntime-int8, openvino-fp32, openvino-int8"
    with pytest.raises(InputError, match=f"peer 'openvino': unknown; known peers: {known}"):
        parse_peers("openvino")


@pytest.mark.parametrize("seed", range(2))
def test_int8_peer_is_a_real_quantization(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = float_net(tmp_path / "float.onnx", rng)
    x = {"whatever": rng.normal(size=(40, 3, 8, 8)).astype(np.float32)}
    fp32, int8 = (open_peer(name, path, tmp_path, x, threads=1) for name in (FP32, INT8))
    expected, found = fp32.run(x)[0], int8.run(x)[0]
    difference = np.abs(found - expected).max() / np.abs(expected).max()
    assert 0 < difference < 0.1
    quantized = onnx.load(tmp_path / "int8.onnx")
    kinds = [node.op_type for node in quantized.graph.node]
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == kinds.count("Gemm") == 1
    assert {"QuantizeLinear", "DequantizeLinear"} <= set(kinds)
    int8_weights = [tensor for tensor in quantized.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert [8, 3, 3, 3] in [list(tensor.dims) for tensor in int8_weights]
    assert int8.model_bytes == (tmp_path / "int8.onnx").stat().st_size


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
@pytest.mark.parametrize("seed", range(2))
def test_openvino_peers_run_the_float_model_and_the_int8_file_in_int8(tmp_path, seed):
    rng = np.random.default_rng(seed)
    path = float_net(tmp_path / "float.onnx", rng, channels=32)
    x = {"whatever": rng.normal(size=(40, 3, 8, 8)).astype(np.float32)}
    peers = {name: open_peer(name, path, tmp_path, x, threads=1) for name in (OPENVINO_FP32, INT8, OPENVINO_INT8)}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    exact = session.run(None, {"x": x["whatever"]})[0]
    (fp32,) = peers[OPENVINO_FP32].run(x)
    np.testing.assert_allclose(fp32, exact, rtol=1e-4, atol=1e-4)
    (int8,), (other,) = peers[OPENVINO_INT8].run(x), peers[INT8].run(x)
    assert 0 < np.abs(int8 - exact).max() / np.abs(exact).max() < 0.1
    assert np.abs(int8 - other).max() / np.abs(exact).max() < 0.05
    assert peers[OPENVINO_INT8].model_bytes == (tmp_path / "int8.onnx").stat().st_size
    assert peers[OPENVINO_FP32].call.precisions() == {"f32": 2}
    assert peers[OPENVINO_INT8].call.precisions() == {"u8": 2}


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_a_file_that_openvino_does_not_read(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"model '.+model.onnx': OpenVINO cannot read it \(.+\); leave it out of"):
        OpenVinoModel(tmp_path / "model.onnx", 1)


def test_without_openvino_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    path = float_net(tmp_path / "float.onnx", np.random.default_rng(0))
    with pytest.raises(LQCompileError, match=r"peer OpenVINO: found no openvino, expected .+; pip install 'lqcompile"):
        open_peer(OPENVINO_FP32, path, tmp_path, {"x": np.ones((1, 3, 8, 8), np.float32)}, threads=1)


def test_bench_of_a_model_against_peers(tmp_path):
    rng = np.random.default_rng(3)
    path = float_net(tmp_path / "float.onnx", rng)
    x = {"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)}
    peers = open_peers(
        (FP32, INT8), model=tmp_path / "none", float_model=path, folder=tmp_path, calibration=x, threads=1
    )

    class Compiled:
        def run(self, inputs):
            assert list(inputs) == ["x"]
            time.sleep(0.01)

    report = bench(Compiled(), peers, x, threads=1, repeats=3).to_json()
    assert list(report["against"]) == [FP32, INT8]
    assert report["median_ms"] >= 10
    assert report["batch"] == 2
    assert all(0 < peer["ratio"] < 1 for peer in report["against"].values())


def test_without_a_float_model_it_is_derived(tmp_path):
    rng = np.random.default_rng(4)
    path = float_net(tmp_path / "model.onnx", rng)
    x = {"x": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)}
    (peer,) = open_peers((FP32,), model=path, float_model=None, folder=tmp_path, calibration=x, threads=1)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(peer.run(x)[0], session.run(None, x)[0], rtol=1e-5, atol=1e-5)
    assert not open_peers((), model=path, float_model=None, folder=tmp_path, calibration=x, threads=1)


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_float_model_that_does_not_load(tmp_path, content):
    path = tmp_path / "float.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=r"float model '.+float.onnx': found .+, expected a model that ONNX Runtime"):
        open_peer(FP32, path, tmp_path, {}, threads=1)


def test_float_model_of_other_inputs(tmp_path):
    path = float_net(tmp_path / "float.onnx", np.random.default_rng(0))
    with pytest.raises(ModelError, match=r"float.onnx': found 1 inputs, expected 2 as in the compiled model"):
        open_peer(FP32, path, tmp_path, {"a": np.ones(1), "b": np.ones(1)}, threads=1)
