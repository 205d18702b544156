"""The command line and boards: a small network from its ONNX file to a board's table, and what is refused."""

import json
import socket

import loopback
import numpy as np
import pytest
from commands import refused

from lqcompile import cpu
from lqcompile.conditions import state_in_words
from lqcompile.runtime import load


@pytest.fixture(scope="module")
def images(classifier, tmp_path_factory):
    """File with random images."""
    (port,) = load(classifier / "model.tar").inputs
    path = tmp_path_factory.mktemp("images") / "in.npz"
    np.savez(path, **{port.name: np.random.default_rng(0).standard_normal((5, *port.shape)).astype(np.float32)})
    return path


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with loopback.server(tmp_path_factory.mktemp("board")) as program:
        yield program


def test_run(classifier, images, board, call, tmp_path):
    arguments = ("-i", images, "-o", tmp_path / "out.npz", "--rpc", board.name)
    code, out, err = call("run", classifier / "model.tar", *arguments, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["device"] == f"board {board.name}"
    assert report["seconds"] > 0
    with np.load(images) as samples, np.load(tmp_path / "out.npz") as found:
        for name, array in load(classifier / "model.tar").run(dict(samples)).items():
            np.testing.assert_array_equal(found[name], array)
    code, out, _ = call("run", classifier / "model.tar", "--random", "1", "--rpc", board.name)
    assert code == 0
    assert f"on board {board.name}" in out and "Ran in" in out


def test_verify(classifier, board, call):
    arguments = ("-a", classifier / "model.tar", "--random", "4", "--rpc", board.name)
    code, out, err = call("verify", classifier / "model.onnx", *arguments, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["passed"] and report["device"] == f"board {board.name}"
    assert report["forced"]["codes"] > 0
    assert report["forced"]["mismatches"] == report["forced"]["integer_mismatches"] == 0


def test_bench(classifier, board, call):
    arguments = ("-a", classifier / "model.tar", "--rpc", board.name, "--limit", "0.2", "--repeats", "2")
    code, out, err = call("bench", classifier / "model.onnx", *arguments, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert set(report["against"]) == {"float-twin", "onnxruntime-fp32", "onnxruntime-int8"}
    assert {"median_ms", "p10_ms", "p90_ms", "p99_ms", "drift", "layers", "conditions", "device", "settled"} <= set(
        report
    )
    code, out, err = call("bench", classifier / "model.onnx", *arguments, "--against", "float-twin")
    assert (code, err) == (0, "")
    for text in ("float-twin", "times as long", "drift", "share", "interleaved rounds", "Before: ", "After: "):
        assert text in out
    assert "onnxruntime" not in out


def test_bench_of_an_artifact_alone(classifier, board, call):
    code, out, err = call("bench", classifier / "model.tar", "--rpc", board.name, "--limit", "0.1", "--repeats", "1")
    assert (code, err) == (0, "")
    assert "Nothing beside it: give the ONNX file and --artifact, or --float-model" in out
    refused(
        call("bench", classifier / "model.tar", "--rpc", board.name, "--against", "float-twin"),
        "peers float-twin: found an artifact alone, expected an ONNX file to make them from",
    )


def test_devices_and_a_board_of_a_tracker(classifier, call, tmp_path):
    with loopback.tracker(tmp_path) as tracker:
        code, out, err = call("devices", "--tracker", tracker.name)
        assert (code, err) == (0, "")
        assert "No board has registered; start 'lqcompile serve --tracker HOST:PORT --key KEY' on one." in out
        with loopback.server(tmp_path, key="rpi4", tracker=tracker.port) as program:
            options = ("--random", "1", "--tracker", tracker.name, "--key", "rpi4")
            assert call("run", classifier / "model.tar", *options)[0] == 0
            code, out, err = call("devices", "--tracker", tracker.name, "--json")
            assert (code, err) == (0, "")
            (entry,) = json.loads(out)["keys"]
            assert entry["free"] + entry["busy"] == 1
            assert {key: entry[key] for key in ("key", "boards", "waiting")} == {
                "key": "rpi4",
                "boards": [program.name],
                "waiting": 0,
            }
            out = call("devices", "--tracker", tracker.name)[1]
            assert "rpi4" in out and program.name in out
        options = ("--random", "1", "--tracker", tracker.name, "--key", "rpi5", "--timeout", "0.5")
        refused(
            call("run", classifier / "model.tar", *options), "found no board with key 'rpi5' (keys that exist: none)"
        )


def test_what_a_board_is(board, call, tmp_path):
    code, out, err = call("devices", "--rpc", board.name, "--json")
    assert (code, err) == (0, "")
    info = json.loads(out)
    assert (info["device"], info["machine"], info["cpu"]) == (f"board {board.name}", cpu.machine(), cpu.cpu_name())
    out = call("devices", "--rpc", board.name)[1]
    assert cpu.cpu_name() in out and "apache-tvm" in out
    with loopback.tracker(tmp_path) as tracker, loopback.server(tmp_path, key="rpi4", tracker=tracker.port) as program:
        code, out, err = call("devices", "--tracker", tracker.name, "--key", "rpi4", "--json")
        assert (code, err, json.loads(out)["device"]) == (0, "", f"board {program.name}")


def test_a_state_in_words():
    state = {"clock_mhz": [1500, 600, 1500], "governor": "ondemand", "temperature_c": 48.31, "throttled": "0x50005"}
    found = state_in_words(state)
    assert found == "clock 600/1500 MHz, governor ondemand, 48.3 \N{DEGREE SIGN}C, THROTTLED (0x50005)"
    nothing = {"clock_mhz": None, "governor": None, "temperature_c": None, "throttled": None}
    assert state_in_words(nothing) == "clock unknown, governor unknown, temperature unknown"
    assert "THROTTLED" not in state_in_words(state | {"throttled": "0x0"})


def test_nobody_there(classifier, call):
    with socket.create_server((loopback.HOST, 0)) as probe:
        name = f"{loopback.HOST}:{probe.getsockname()[1]}"
    message = f"board {name}: found no server, expected one; start 'lqcompile serve' there"
    for command in (
        ("run", classifier / "model.tar", "--random", "1"),
        ("verify", classifier / "model.onnx", "-a", classifier / "model.tar"),
        ("bench", classifier / "model.tar"),
    ):
        refused(call(*command, "--rpc", name), message)
    refused(call("devices", "--tracker", name), f"tracker {name}: found connection refused, expected a tracker")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rpc", "a:1", "--tracker", "b:2"), "board: found --rpc and --tracker, expected one of them"),
        (
            ("--tracker", "b:2"),
            "board: found --tracker without --key, expected both; 'lqcompile devices' lists the keys",
        ),
        (("--key", "rpi4"), "board: found --key alone, expected --rpc or --tracker with it"),
        (("--rpc", "nowhere"), "address 'nowhere': expected HOST:PORT"),
    ],
)
def test_options_that_do_not_go_together(classifier, call, options, message):
    refused(call("run", classifier / "model.tar", "--random", "1", *options), message)


def test_a_limit_needs_a_board(classifier, call):
    refused(
        call("bench", classifier / "model.tar", "--limit", "3"),
        "bench: found --limit without --rpc or --tracker, expected a board with it",
    )


def test_building_for_another_machine_than_the_board(classifier, board, call):
    refused(
        call("verify", classifier / "model.onnx", "--target", "raspberry-pi-4", "--rpc", board.name),
        f"target 'raspberry-pi-4': found code for aarch64, expected x86_64 as on board {board.name}; choose another",
    )


def test_no_times_under_emulation(classifier, call, tmp_path):
    with loopback.server(tmp_path, fault="emulated") as board:
        code, out, _ = call("run", classifier / "model.tar", "--random", "1", "--rpc", board.name)
        assert code == 0
        assert "Ran under emulation, where a time means nothing" in out and " ms" not in out
        refused(
            call("bench", classifier / "model.tar", "--rpc", board.name), "found qemu-user emulation, expected hardware"
        )


def test_an_output_is_whole_or_not_there(classifier, images, call, tmp_path):
    with loopback.server(tmp_path, fault="crash") as board:
        options = ("-i", images, "-o", tmp_path / "out.npz", "--rpc", board.name)
        refused(call("run", classifier / "model.tar", *options), "found the session broken during 'run'")
    assert not list(tmp_path.glob("*out.npz*"))
