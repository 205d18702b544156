"""Timing on a board: what is reported, what runs beside it, and when it stops. No time decides a test."""

import loopback
import numpy as np
import onnx
import pytest

from lqcompile import cpu
from lqcompile.errors import DeviceError, InputError
from lqcompile.peers import FP32, INT8, parse_peers
from lqcompile.rpc.bench import (
    BOARD_PEERS,
    MAIN,
    TWIN,
    bench_on_board,
    make_peers,
    usual_peers,
)
from lqcompile.rpc.device import Device
from lqcompile.runtime import load

WAIT_S = 60.0


@pytest.fixture(scope="module")
def network(classifier):
    """Folder with model.onnx and model.tar; samples."""
    (port,) = load(classifier / "model.tar").inputs
    return classifier, {port.name: np.random.default_rng(0).standard_normal((20, *port.shape)).astype(np.float32)}


def bench(device, network, peers, **options):
    folder, samples = network
    told = []
    options = {"threads": 1, "precision": 0.01, "fewest": 3, "limit_s": 1.0} | options
    one = {name: array[:2] for name, array in samples.items()}
    report = bench_on_board(
        device, folder / "model.tar", peers, one, progress=lambda text, part: told.append((text, part)), **options
    )
    return report, told


def test_names_of_peers():
    assert parse_peers("onnxruntime-int8, float-twin", BOARD_PEERS) == (INT8, TWIN)
    assert parse_peers("none", BOARD_PEERS) == ()
    with pytest.raises(InputError, match=r"peer 'openvino-int8': unknown; known peers: float-twin, onnxruntime-fp32, "):
        parse_peers("openvino-int8", BOARD_PEERS)


def test_peers_need_a_model(tmp_path, shared_target):
    empty = {"model": None, "float_model": None, "variant": shared_target, "folder": tmp_path, "calibration": {}}
    assert make_peers((), **empty) == {}
    with pytest.raises(InputError, match=r"peers float-twin: found an artifact alone, expected an ONNX file to make"):
        make_peers((TWIN,), **empty)


def test_a_report_with_all_peers(network, tmp_path, shared_target):
    folder, samples = network
    with loopback.server(tmp_path) as board, Device(board.address, timeout_s=WAIT_S) as device:
        assert usual_peers(device) == BOARD_PEERS
        peers = make_peers(
            BOARD_PEERS,
            model=folder / "model.onnx",
            float_model=None,
            variant=shared_target,
            folder=tmp_path,
            calibration=samples,
        )
        report, told = bench(device, network, peers)
    found = report.to_json()
    assert set(found["against"]) == set(BOARD_PEERS)
    assert found["variant"] == shared_target
    assert (found["batch"], found["threads"]) == (2, 1)
    variant = load(folder / "model.tar").variant
    assert [layer["name"] for layer in found["layers"]] == [region["name"] for region in variant["regions"]]
    assert all(layer["median_ms"] > 0 for layer in found["layers"])
    kernels = {layer["name"]: layer["kernel"] for layer in found["layers"] if layer["kernel"] is not None}
    assert kernels == {layer["name"]: layer["kernel"] for layer in variant["layers"]}
    for entry in (found, *found["against"].values()):
        assert 0 < entry["p10_ms"] <= entry["median_ms"] <= entry["p90_ms"] <= entry["p99_ms"]
        assert entry["readings"] == found["readings"] >= 3
    for entry in found["against"].values():
        assert entry["ratio"] == entry["median_ms"] / found["median_ms"]
    assert found["cpu"] == found["device"]["cpu"] == cpu.cpu_name()
    assert set(found["conditions"]["before"]) == set(found["conditions"]["after"])
    texts = [text for text, _ in told]
    assert texts[0] == "uploading lqcompile.tar"
    assert f"uploading {FP32}.onnx" in texts and f"uploading {INT8}.onnx" in texts
    assert "warming up" in texts and any("rounds, medians within" in text for text in texts)
    assert texts[-1].startswith("timing layer ")


def test_the_compiled_twin_is_the_float_network(network, tmp_path, shared_target):
    folder, samples = network
    options = {"model": folder / "model.onnx", "float_model": None, "variant": shared_target, "folder": tmp_path}
    files = make_peers((TWIN, FP32), **options, calibration=samples)
    session = onnx.reference.ReferenceEvaluator(str(files[FP32]))
    (expected,) = session.run(None, samples)
    (found,) = load(files[TWIN]).run(samples).values()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    layers = load(files[TWIN]).variant["layers"]
    assert layers and {layer["kernel"] for layer in layers} == {"float"}


def test_it_stops_when_the_time_is_up_or_the_medians_are_certain(network, tmp_path):
    with loopback.server(tmp_path) as board:
        with Device(board.address, timeout_s=WAIT_S) as device:
            report, _ = bench(device, network, {}, precision=0.0, limit_s=0.5)
            assert not report.settled
            assert report.seconds >= 0.5
        with Device(board.address, timeout_s=WAIT_S) as device:
            report, _ = bench(device, network, {}, precision=1e9, fewest=1, limit_s=WAIT_S)
            assert report.settled
            assert report.seconds < WAIT_S
        assert set(report.times) == {MAIN}


def test_no_times_under_emulation(network, tmp_path):
    with (
        loopback.server(tmp_path, fault="emulated") as board,
        Device(board.address, timeout_s=WAIT_S) as device,
        pytest.raises(DeviceError, match=r"^board 127.+: found qemu-user emulation, expected hardware, for times"),
    ):
        bench(device, network, {})


def test_a_board_without_onnxruntime_has_the_twin_alone(tmp_path):
    with loopback.server(tmp_path, fault="no onnxruntime") as board, Device(board.address, timeout_s=WAIT_S) as device:
        assert usual_peers(device) == (TWIN,)
