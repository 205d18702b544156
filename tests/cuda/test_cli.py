"""The command line with a GPU: build, run and verify, on the emulated one."""

from __future__ import annotations

import json
from pathlib import Path

import emulated_gpu
import numpy as np
import pytest
from models import Builder
from onnx import save

from lqcompile.cli import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of integer bases, with pooling and a linear layer."""
    rng = np.random.default_rng(3)
    builder = Builder(rng, (6, 8, 8)).quantize(2, integer=True).conv(40, bits=2, integer=True)
    builder = builder.batch_norm().relu().max_pool().quantize(2, integer=True).flatten().linear(5, bits=1, integer=True)
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    save(builder.build(), path)
    return path


def test_build_run_and_verify(
    gpu: emulated_gpu.Driver, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = tmp_path / "model.tar"
    options = ["--target", "cuda-h200", "-o", str(artifact), "--dump-ir", str(tmp_path / "ir"), "--json"]
    assert main(["build", str(model), *options]) == 0
    built = json.loads(capsys.readouterr().out)
    assert {layer["kernel"] for layer in built["layers"]} <= {"b1mma", "i8mma", "popcount", "dot8"}
    assert "__global__" in (tmp_path / "ir" / "4_cuda-h200.cu").read_text()
    assert main(["verify", str(model), "--artifact", str(artifact), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] and report["forced"]["codes"] > 0
    assert report["forced"]["mismatches"] == report["forced"]["integer_mismatches"] == 0
    assert main(["inspect", str(artifact), "--json"]) == 0


def test_targets_say_which_the_gpu_runs(gpu: emulated_gpu.Driver, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "--json"]) == 0
    runs = {entry["name"] for entry in json.loads(capsys.readouterr().out)["targets"] if entry["runs_here"]}
    assert {"cuda", "cuda-ptx", "cuda-h200"} <= runs
    assert not {"cuda-a100", "jetson-orin"} & runs
