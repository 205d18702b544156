"""An emulated Cortex-A53 from the host's side: what needs another CPU is refused in time, and no time is reported."""

import numpy as np
import onnx
import pytest
from board import Board
from models import classifier_model

from lqcompile.artifact import read_artifact, write_artifact
from lqcompile.build import build
from lqcompile.errors import ArtifactError, DeviceError
from lqcompile.rpc.bench import refuse_emulator
from lqcompile.rpc.device import Device
from lqcompile.rpc.model import RemoteModel

WAIT_S = 300.0
"""For an emulator on a busy machine."""


@pytest.fixture(scope="module")
def served():
    with Board("cortex-a53").serve() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network for this CPU; for one with the dot product; and the latter, claiming to need nothing."""
    folder = tmp_path_factory.mktemp("arm")
    onnx.save(classifier_model(np.random.default_rng(11), shape=(1, 8, 8)), folder / "model.onnx")
    for target in ("arm-neon", "arm-dotprod"):
        build(folder / "model.onnx", target=target, output=folder / f"{target}.tar")
    content = read_artifact(folder / "arm-dotprod.tar")
    variants = [variant | {"requires": []} for variant in content.manifest["variants"]]
    write_artifact(folder / "lying.tar", content.manifest | {"variants": variants}, content.members)
    return folder


@pytest.fixture
def device(served):
    with Device(("127.0.0.1", served.port), timeout_s=WAIT_S) as device:
        yield device


def ones(model):
    return {port.name: np.ones((1, *port.shape), np.float32) for port in model.inputs}


def test_it_runs_and_reports_no_time(device, folder):
    assert (device.info["machine"], device.info["emulator"]) == ("aarch64", "qemu-user")
    assert "dotprod" not in device.info["features"]
    model = RemoteModel(device, folder / "arm-neon.tar")
    outputs = model.run(ones(model))
    assert [array.shape for array in outputs.values()] == [(1, *port.shape) for port in model.outputs]
    assert model.seconds is None
    with pytest.raises(DeviceError, match=r"found qemu-user emulation, expected hardware"):
        refuse_emulator(device)
    with pytest.raises(DeviceError, match=r"found qemu-user emulation, expected hardware"):
        device.call("prepare", {}, ones(model))


def test_code_for_another_cpu_is_refused_before_it_is_uploaded(device, folder):
    told = []
    with pytest.raises(ArtifactError, match=r"found a CPU without dotprod, expected them for variant 'arm-dotprod'"):
        RemoteModel(device, folder / "arm-dotprod.tar", progress=lambda text, part: told.append(text))
    assert not told


def test_what_would_happen_otherwise_and_that_the_board_outlives_it(served, folder):
    with Device(("127.0.0.1", served.port), timeout_s=WAIT_S) as device:
        model = RemoteModel(device, folder / "lying.tar")
        with pytest.raises(DeviceError, match=r"found the session broken during 'run', expected an answer; the server"):
            model.run(ones(model))
    with Device(("127.0.0.1", served.port), timeout_s=WAIT_S) as device:
        model = RemoteModel(device, folder / "arm-neon.tar")
        assert model.run(ones(model))
