"""``lqcompile bench`` on a GPU: the emulated one, with a peer that is made up; and commands where there is no GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import emulated_gpu
import numpy as np
import onnx
import pytest
from models import Builder

from lqcompile.build import build
from lqcompile.cuda import driver
from lqcompile.gpu_bench import bench as timing
from lqcompile.gpu_bench import opening
from lqcompile.gpu_bench.peer import Absent, GpuPeer

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with model.onnx, and model.tar for cuda-h200, of emulated kernels."""
    folder = tmp_path_factory.mktemp("bench")
    model = Builder(np.random.default_rng(0), (8, 5, 5)).quantize(2).conv(16, bits=2).build()
    onnx.save(model, folder / "model.onnx")
    patch = pytest.MonkeyPatch()
    patch.setattr("lqcompile.cuda.build.compile_cuda", emulated_gpu.compile_emulated)
    build(folder / "model.onnx", target="cuda-h200", output=folder / "model.tar")
    patch.undo()
    return folder


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Two peers in place of all others, one of them absent; gives the samples and calibration samples of each."""
    seen: list[tuple[int, int]] = []

    def here(name: str, model: onnx.ModelProto, inputs: Mapping, calibration: Mapping) -> GpuPeer:
        assert [node.op_type for node in model.graph.node] == ["Clip", "Conv"], "the float twin"
        seen.append((len(inputs["x"]), len(calibration["x"])))
        return GpuPeer(name=name, what="nothing at all", run=lambda: None, outputs=list)

    def away(name: str, *arguments: object) -> GpuPeer:
        raise Absent("found none; install it")

    monkeypatch.setattr(timing, "PEERS", {"here": here, "away": away})
    monkeypatch.setattr(opening, "PEERS", timing.PEERS)
    return seen


def test_bench_lists_who_ran_and_who_did_not(
    gpu: emulated_gpu.Driver, files: Path, peers: list, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "BATCHES", (1, 3))
    options = ["--artifact", files / "model.tar", "--repeats", 3]
    code, output, errors = call("bench", files / "model.onnx", *options, "--json")
    assert (code, errors) == (0, "")
    report = json.loads(output)
    assert (report["gpu"], report["variant"]) == ("Emulated GPU", "cuda-h200")
    assert [entry["batch"] for entry in report["batches"]] == [1, 3]
    assert peers == [(1, 32), (3, 32)]
    for entry in report["batches"]:
        assert entry["repeats"] == 3 and 0 < entry["median_ms"] <= entry["p90_ms"]
        assert entry["with_copies"]["median_ms"] > 0 and entry["uncertainty"] >= 0
        assert entry["absent"] == {"away": "found none; install it"}
        peer = entry["against"]["here"]
        assert peer["what"] == "nothing at all"
        assert peer["ratio"] == pytest.approx(peer["median_ms"] / entry["median_ms"])
    code, output, _ = call("bench", files / "model.onnx", *options, "--batch", 2)
    assert code == 0
    text = " ".join(output.split())
    assert "Time of a run of 2 samples, Emulated GPU" in text and "lqcompile, with copies" in text
    assert "away not there" in text and "Not there: away: found none; install it" in text
    assert "here: nothing at all" in text
    assert re.search(r"here +\d+\.\d{3} +\d+\.\d{3} +± \d+\.\d % +\d+\.\d\d", output)


def test_bench_takes_samples_of_a_file_and_no_peers(
    gpu: emulated_gpu.Driver, files: Path, tmp_path: Path, call: Call
) -> None:
    np.savez(tmp_path / "samples.npz", x=np.zeros((2, 8, 5, 5), np.float32))
    options = ["--against", "none", "--samples", tmp_path / "samples.npz", "--batch", 5, "--repeats", 1, "--json"]
    code, output, _ = call("bench", files / "model.tar", *options)
    assert code == 0
    (entry,) = json.loads(output)["batches"]
    assert (entry["against"], entry["absent"], entry["batch"]) == ({}, {}, 5)


KNOWN = (
    "torch-fp16, torch-fp16-compiled, torch-int8, torch-int8-compiled, tensorrt-fp16, tensorrt-int8, "
    "onnxruntime-cuda-fp16"
)

SENSELESS = {
    ("--threads", 2): "bench: found --threads 2, expected none: on a GPU nothing has threads to set",
    ("--batch", 257): (
        "bench: found --batch 257, expected at most 256: more samples go through a GPU in batches of that; ask for "
        "fewer"
    ),
    ("--against", "openvino-int8"): f"peer 'openvino-int8': unknown; known peers: {KNOWN}",
}


@pytest.mark.parametrize("options", SENSELESS, ids=str)
def test_requests_that_make_no_sense_on_a_gpu(
    gpu: emulated_gpu.Driver, files: Path, call: Call, options: tuple
) -> None:
    assert call("bench", files / "model.onnx", "--target", "cuda-h200", *options) == (
        1,
        "",
        f"lqcompile: error: {SENSELESS[options]}\n",
    )


def test_an_artifact_alone_has_nothing_to_make_peers_from(gpu: emulated_gpu.Driver, files: Path, call: Call) -> None:
    code, _, errors = call("bench", files / "model.tar")
    assert code == 1 and "found an artifact alone, expected an ONNX file to make the peers from" in errors


def test_a_batch_that_does_not_fit(gpu: emulated_gpu.Driver, files: Path, call: Call) -> None:
    gpu.set(free=gpu.bytes_in_use + 30_000)
    code, _, errors = call("bench", files / "model.tar", "--against", "none", "--batch", 32)
    assert code == 1
    assert re.fullmatch(
        r"lqcompile: error: GPU Emulated GPU: found memory for \d samples at a time, expected 32; ask for a smaller "
        r"--batch, or close other programs\n",
        errors,
    )


NO_DRIVER = (
    "CUDA: found no NVIDIA driver (libcuda.so.0), expected one for CUDA 13 or later; install it, or run on a machine "
    "with a GPU"
)

COMMANDS = {
    "bench": (["bench", "model.onnx", "--artifact", "model.tar"], re.escape(NO_DRIVER)),
    "bench by target": (["bench", "model.onnx", "--target", "cuda"], re.escape(NO_DRIVER)),
    "run": (["run", "model.tar", "--random", 1], re.escape(NO_DRIVER)),
    "verify": (["verify", "model.onnx", "--artifact", "model.tar"], re.escape(NO_DRIVER)),
    "tune": (
        ["tune", "model.onnx", "--target", "cuda-h200", "--budget", "trials=1", "--output", "built.tar"],
        re.escape(NO_DRIVER),
    ),
    "build": (
        ["build", "model.onnx", "--target", "cuda-h200", "--select", "measure", "--output", "built.tar"],
        re.escape(NO_DRIVER),
    ),
    "profile": (["profile", "model.tar"], re.escape(NO_DRIVER)),
    "report": (["report", "model.tar", "--output", "page.html"], re.escape(NO_DRIVER)),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_without_a_gpu_every_command_ends_in_one_line(
    name: str, files: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda.so.0")
    arguments, message = COMMANDS[name]
    places = {"model.onnx": files, "model.tar": files, "page.html": tmp_path, "built.tar": tmp_path}
    code, output, errors = call(*(places[word] / word if word in places else word for word in arguments))
    assert (code, output) == (1, "")
    assert re.fullmatch(f"lqcompile: error: {message}\n", errors)
    assert not list(tmp_path.iterdir()), "nothing is left half written"
