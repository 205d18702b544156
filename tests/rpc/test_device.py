"""A board from the host's side: a real server on loopback, and everything that can go wrong with it."""

import re
import socket
import threading
import time
from contextlib import contextmanager, suppress

import loopback
import numpy as np
import pytest

from lqcompile import cpu
from lqcompile.artifact import read_artifact, write_artifact
from lqcompile.errors import ArtifactError, DeviceError, InputError
from lqcompile.rpc.board import PROTOCOL
from lqcompile.rpc.device import Device, request_device
from lqcompile.rpc.model import RemoteModel
from lqcompile.runtime import load

WAIT_S = 30.0
"""Longer than anything here takes where nothing is wrong."""


@pytest.fixture(scope="module")
def artifact(classifier):
    return classifier / "model.tar"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with loopback.server(tmp_path_factory.mktemp("server")) as program:
        yield program


def samples(model, count, seed):
    (port,) = model.inputs
    return {port.name: np.random.default_rng(seed).standard_normal((count, *port.shape)).astype(np.float32)}


def test_a_board_says_what_it_is(server):
    with Device(server.address, timeout_s=WAIT_S) as device:
        info = device.info
    assert (info["machine"], info["system"], info["cpu"]) == (cpu.machine(), cpu.system(), cpu.cpu_name())
    assert set(info["features"]) == cpu.cpu_features()
    assert info["cores"] >= 1
    assert {"clock_mhz", "temperature_c", "governor", "throttled"} <= set(info)
    assert {"apache-tvm", "numpy"} <= set(info["versions"])


@pytest.mark.parametrize("seed", range(2))
def test_a_board_gives_what_this_machine_gives(server, artifact, seed):
    here = load(artifact)
    told = []
    with Device(server.address, timeout_s=WAIT_S) as device:
        there = RemoteModel(device, artifact, threads=1, progress=lambda text, part: told.append((text, part)))
        assert there.variant == here.variant
        assert there.plan_values == here.plan_values
        feeds = samples(here, 37, seed)
        found, expected = there.run(feeds), here.run(feeds)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)
        with pytest.raises(InputError, match="input 'wrong': unknown"):
            there.run({"wrong": np.zeros(1)})
        with pytest.raises(InputError, match=r"^board 127.+: input 'wrong': unknown"):
            device.call("run", {"model": "model"}, {"wrong": np.zeros(1)})
    assert there.seconds > 0
    assert told[0] == ("uploading model.tar", 1.0)
    assert ("running", 1.0) in told


def test_regions_on_a_board(server, artifact):
    here = load(artifact)
    with Device(server.address, timeout_s=WAIT_S) as device:
        there = RemoteModel(device, artifact)
        rng = np.random.default_rng(3)
        summed = {entry["region"]: entry for entry in here.variant["sums"]}
        assert summed
        for region in here.variant["regions"]:
            if region["name"] not in summed or not region["reads"]:
                continue
            entry = next(entry for entry in here.variant["tensors"] if entry["value"] == region["reads"][0])
            values = {region["reads"][0]: rng.integers(0, 4, (3, *entry["shape"])).astype(np.uint8)}
            np.testing.assert_array_equal(there.run_sums(region["name"], values), here.run_sums(region["name"], values))
            expected = here.run_region(region["name"], values)
            for name, array in there.run_region(region["name"], values).items():
                np.testing.assert_array_equal(array, expected[name])


def test_large_uploads_go_in_pieces(server, tmp_path):
    data = np.random.default_rng(0).bytes((5 << 20) // 2)
    parts = []
    with Device(server.address, timeout_s=WAIT_S) as device:
        device.upload("large.bin", data, lambda text, part: parts.append(part))
        assert device.call("digest", {"file": "large.bin"})[0]["bytes"] == len(data)
        device.upload("large.bin", b"short")
        assert device.call("digest", {"file": "large.bin"})[0]["bytes"] == 5
    assert parts == [0.4, 0.8, 1.0]


def test_times_are_those_of_calls_on_the_board(server, artifact):
    with Device(server.address, timeout_s=WAIT_S) as device:
        with pytest.raises(DeviceError, match="found nothing to time, expected 'prepare' before 'measure'"):
            device.call("measure", {"seconds": 0.1})
        model = RemoteModel(device, artifact, threads=1)
        RemoteModel(device, artifact, name="other", threads=1)
        feeds = samples(model, 1, 0)
        device.call("prepare", {}, feeds)
        answer, _ = device.call("measure", {"seconds": 0.2})
        readings = answer["readings"]
        assert set(readings) == {"model", "other"}
        assert len(readings["model"]) == len(readings["other"]) > 1
        assert all(0 < value < 1 for value in (*readings["model"], *readings["other"]))
        for region in model.variant["regions"]:
            layer, _ = device.call("time_layer", {"model": "model", "layer": region["name"], "rounds": 3}, feeds)
            assert 0 < layer["median_ms"] < 1000


# What goes wrong. Afterwards a session on a healthy board must work: this process is not spoiled.


@pytest.fixture
def healthy(server):
    yield
    with Device(server.address, timeout_s=WAIT_S) as device:
        assert device.info["machine"] == cpu.machine()


def free_port():
    with socket.create_server((loopback.HOST, 0)) as probe:
        return probe.getsockname()[1]


def test_no_server(healthy):
    port = free_port()
    message = rf"^board 127.0.0.1:{port}: found no server, expected one; start 'lqcompile serve' there, or check"
    with pytest.raises(DeviceError, match=message):
        Device((loopback.HOST, port), timeout_s=WAIT_S)


def test_a_name_that_nobody_has(healthy):
    with pytest.raises(
        DeviceError, match=r"^board no-such-board.invalid:9090: found no machine of that name, expected one; check"
    ):
        Device(("no-such-board.invalid", 9090), timeout_s=WAIT_S)


@contextmanager
def other_server(behave):
    """Something that is no board; `behave` gets its first connection."""

    def answer():
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            behave(connection)

    with socket.create_server((loopback.HOST, 0)) as listener:
        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()
        thread.join()


def test_another_kind_of_server(healthy):
    def behave(connection):
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.settimeout(2)
        while connection.recv(1000):
            pass

    message = "found another kind of server, expected 'lqcompile serve'; check the address"
    with other_server(behave) as address, pytest.raises(DeviceError, match=message):
        Device(address, timeout_s=WAIT_S)


def test_a_server_that_hangs_up(healthy):
    message = "found the connection closed before any answer, expected 'lqcompile serve'; it was stopped, or another"
    with other_server(lambda connection: None) as address, pytest.raises(DeviceError, match=message):
        Device(address, timeout_s=WAIT_S)


def test_a_server_that_never_answers(healthy):
    with socket.create_server((loopback.HOST, 0)) as listener:
        start = time.monotonic()
        with pytest.raises(DeviceError, match=r"found no answer to 'info' within 0.5 s, expected one; it may be busy"):
            Device(listener.getsockname(), timeout_s=0.5)
        assert time.monotonic() - start < 10


def test_a_busy_board(server, artifact):
    message = "found no answer to 'info' within 1 s, expected one; it may be busy"
    with Device(server.address, timeout_s=WAIT_S), pytest.raises(DeviceError, match=message):
        Device(server.address, timeout_s=1)
    with Device(server.address, timeout_s=WAIT_S) as device:
        RemoteModel(device, artifact)


def test_tvms_plain_server(healthy, tmp_path):
    message = "found TVM's plain server, expected 'lqcompile serve'; start that on"
    with loopback.server(tmp_path, fault="plain") as plain, pytest.raises(DeviceError, match=message):
        Device(plain.address, timeout_s=WAIT_S)


def test_keys(healthy, tmp_path):
    with loopback.server(tmp_path, key="rpi4") as board:
        for wrong in ("", "rpi5"):
            with pytest.raises(DeviceError, match=r"found a server with another key, expected that of --key; a server"):
                Device(board.address, wrong, timeout_s=WAIT_S)
        with Device(board.address, "rpi4", timeout_s=WAIT_S) as device:
            assert device.info["cores"] >= 1


def test_a_board_with_another_version(healthy, tmp_path):
    message = f"found protocol {PROTOCOL + 1}, expected {PROTOCOL}; install the same version of lqcompile on the board"
    with loopback.server(tmp_path, fault="other protocol") as board, pytest.raises(DeviceError, match=message):
        Device(board.address, timeout_s=WAIT_S)


def test_a_crash_ends_the_session_and_not_the_board(healthy, tmp_path, artifact):
    with loopback.server(tmp_path, fault="crash") as board:
        for _ in range(2):
            with Device(board.address, timeout_s=WAIT_S) as device:
                model = RemoteModel(device, artifact)
                with pytest.raises(DeviceError, match=r"^board 127.+: found the session broken during 'run', expected"):
                    model.run(samples(model, 1, 0))
                with pytest.raises(DeviceError, match=r"found a session that has ended, expected an open one; connect"):
                    model.run(samples(model, 1, 0))


def test_a_board_that_hangs_is_given_up_and_frees_itself(healthy, tmp_path, artifact):
    with loopback.server(tmp_path, fault="hang") as board:
        with Device(board.address, timeout_s=WAIT_S) as device:
            model = RemoteModel(device, artifact)
            device.timeout_s = 1.0
            with pytest.raises(DeviceError, match=r"found no answer to 'run' within 1 s, expected one; it may be busy"):
                model.run(samples(model, 1, 0))
        with Device(board.address, timeout_s=WAIT_S) as device:
            assert device.info["cores"] >= 1
        assert "'run' took longer than the host waits; session ended" in board.log.read_text()


def test_a_session_that_takes_too_long(healthy, tmp_path, artifact):
    with loopback.server(tmp_path, fault="hang") as board:
        with Device(board.address, timeout_s=WAIT_S, session_s=3) as device:
            model = RemoteModel(device, artifact)
            with pytest.raises(DeviceError, match=r"found the session at its limit of 3 s, expected it to end before"):
                model.run(samples(model, 1, 0))
        with Device(board.address, timeout_s=WAIT_S) as device:
            assert device.info["cores"] >= 1


def test_a_server_that_is_killed_while_it_runs(healthy, tmp_path, artifact):
    with loopback.server(tmp_path, fault="hang") as board, Device(board.address, timeout_s=WAIT_S) as device:
        model = RemoteModel(device, artifact)
        killer = threading.Timer(0.5, board.kill)
        killer.start()
        with pytest.raises(DeviceError, match=r"found the session broken during 'run', expected an answer; the server"):
            model.run(samples(model, 1, 0))
        killer.join()


def test_an_error_on_the_board(healthy, tmp_path, artifact):
    with loopback.server(tmp_path, fault="bug") as board, Device(board.address, timeout_s=WAIT_S) as device:
        model = RemoteModel(device, artifact)
        with pytest.raises(DeviceError, match=r"^board 127.+: found an error in 'run', expected a result: 'nothing'"):
            model.run(samples(model, 1, 0))


def test_an_upload_that_does_not_arrive(healthy, tmp_path, artifact):
    with loopback.server(tmp_path, fault="full disk") as board, Device(board.address, timeout_s=WAIT_S) as device:
        size = artifact.stat().st_size
        message = rf"found {size - 1} bytes of 'model.tar' after its upload, expected the {size} that were sent; check"
        with pytest.raises(DeviceError, match=message):
            RemoteModel(device, artifact)


def test_half_an_artifact(server, artifact):
    data = artifact.read_bytes()
    with Device(server.address, timeout_s=WAIT_S) as device:
        device.upload("half.tar", data[: len(data) // 2])
        with pytest.raises(ArtifactError, match=r"^board 127.+half.tar': found a truncated"):
            device.call("load", {"model": "half", "file": "half.tar", "threads": None})
        RemoteModel(device, artifact)


def changed(artifact, path, change):
    content = read_artifact(artifact)
    write_artifact(path, change(content.manifest), content.members)
    return path


def test_an_artifact_for_another_machine(server, artifact, tmp_path):
    path = changed(artifact, tmp_path / "arm.tar", lambda manifest: manifest | {"machine": "aarch64"})
    with Device(server.address, timeout_s=WAIT_S) as device:
        message = r"^board 127.+ \(.+\): artifact .+ found code for aarch64 on linux, expected x86_64 on linux"
        with pytest.raises(ArtifactError, match=message):
            RemoteModel(device, path)


def test_an_artifact_for_a_better_cpu_is_refused_before_it_is_uploaded(healthy, tmp_path, artifact):
    with loopback.server(tmp_path, fault="old CPU") as board, Device(board.address, timeout_s=WAIT_S) as device:
        told = []
        with pytest.raises(
            ArtifactError, match=r"^board 127.+: artifact .+ found a CPU without avx2, bmi2, fma, popcnt"
        ):
            RemoteModel(device, artifact, progress=lambda text, part: told.append(text))
        assert not told
        # The board itself refuses as well: a host of another kind may not look.
        device.upload("model.tar", artifact.read_bytes())
        with pytest.raises(ArtifactError, match=r"found a CPU without avx2, bmi2, fma, popcnt, expected them"):
            device.call("load", {"model": "model", "file": "model.tar", "threads": None})


def test_no_times_under_emulation(healthy, tmp_path, artifact):
    with loopback.server(tmp_path, fault="emulated") as board, Device(board.address, timeout_s=WAIT_S) as device:
        model = RemoteModel(device, artifact)
        feeds = samples(model, 2, 0)
        model.run(feeds)
        assert model.seconds is None
        for function, values in (("prepare", {}), ("time_layer", {"model": "model", "layer": "x", "rounds": 1})):
            with pytest.raises(DeviceError, match=r"found qemu-user emulation, expected hardware, for times under"):
                device.call(function, values, feeds)


def test_a_board_without_onnxruntime(healthy, tmp_path):
    values = {"peer": "onnxruntime-fp32", "file": "float.onnx", "threads": 1}
    message = "board: found no onnxruntime, expected it as a peer; pip install onnxruntime there"
    with (
        loopback.server(tmp_path, fault="no onnxruntime") as board,
        Device(board.address, timeout_s=WAIT_S) as device,
        pytest.raises(DeviceError, match=message),
    ):
        device.call("open_peer", values)


def test_a_board_of_a_tracker(healthy, tmp_path, artifact):
    states = []
    with loopback.tracker(tmp_path) as tracker:
        name = re.escape(tracker.name)
        with pytest.raises(
            DeviceError, match=rf"^tracker {name}: found no board with key 'rpi4' \(keys that exist: none"
        ):
            request_device(tracker.address, "rpi4", timeout_s=1)
        with loopback.server(tmp_path, key="rpi5", tracker=tracker.port):
            with request_device(tracker.address, "rpi5", timeout_s=WAIT_S) as device:
                RemoteModel(device, artifact)
                with pytest.raises(
                    DeviceError, match=r"found 1 board with key 'rpi5', none free \(1 request waiting\) for"
                ):
                    request_device(tracker.address, "rpi5", timeout_s=2, waiting=states.append)
                with pytest.raises(
                    DeviceError, match=r"found no board with key 'rpi4' \(keys that exist: 'rpi5'\) for"
                ):
                    request_device(tracker.address, "rpi4", timeout_s=1)
            with request_device(tracker.address, "rpi5", timeout_s=WAIT_S) as device:
                assert device.info["cores"] >= 1
    assert states[0] == "1 board with key 'rpi5', none free (1 request waiting)"


def test_this_process_can_end_while_a_board_hangs(tmp_path, artifact):
    script = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom lqcompile.rpc.device import Device\n"
        "from lqcompile.errors import DeviceError\nfrom lqcompile.rpc.model import RemoteModel\n"
        f"device = Device(('127.0.0.1', int(sys.argv[1])), timeout_s={WAIT_S})\n"
        "model = RemoteModel(device, Path(sys.argv[2]))\ndevice.timeout_s = 0.5\n"
        "try:\n    model.run({port.name: np.zeros((1, *port.shape), np.float32) for port in model.inputs})\n"
        "except DeviceError as error:\n    print(error)\n    sys.exit(3)\n"
    )
    with loopback.server(tmp_path, fault="hang") as board:
        done = loopback.run_python("-c", script, board.port, artifact)
    assert (done.returncode, done.stderr) == (3, "")
    assert "found no answer to 'run' within 0.5 s" in done.stdout
