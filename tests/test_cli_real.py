"""The command line on the real compiler: one small network, from its ONNX file to timing, and what goes wrong there."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from commands import refused
from models import classifier_model, random_input, run_onnxruntime

from lqcompile.artifact import read_artifact, write_artifact


@pytest.fixture(scope="module")
def network(tmp_path_factory, shared_target):
    """Folder with model.onnx, and model.tar that the command line built from it; and the build report."""
    folder = tmp_path_factory.mktemp("network")
    onnx.save(classifier_model(np.random.default_rng(11), shape=(1, 8, 8)), folder / "model.onnx")
    command = ["build", "model.onnx", "--target", shared_target, "-o", "model.tar", "--strict", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "lqcompile", *command], cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert all(line.startswith("Building model.onnx: ") for line in done.stderr.splitlines()), done.stderr
    assert sorted(entry.name for entry in folder.iterdir()) == ["model.onnx", "model.tar"]
    return folder, json.loads(done.stdout)


def test_build_refuses_a_folder_as_output_before_it_compiles(network, call, shared_target):
    folder, _ = network
    outcome = call("build", folder / "model.onnx", "--target", shared_target, "-o", folder)
    refused(outcome, "found is a directory, expected a file name")


def test_build_report(network):
    folder, report = network
    assert set(report) >= {"artifact", "target", "seconds", "bytes", "layers"}
    assert report["bytes"]["onnx"] == (folder / "model.onnx").stat().st_size
    assert report["bytes"]["artifact"] == (folder / "model.tar").stat().st_size
    assert 0 < report["bytes"]["packed_weights"] < report["bytes"]["onnx"]
    keys = {"name", "op", "weight_bits", "act_bits", "kernel", "reason", "tile", "measured", "estimates", "macs"}
    assert all(set(layer) >= keys and layer["reason"] for layer in report["layers"])
    assert {layer["weight_bits"] for layer in report["layers"]} == {2, 8}


@pytest.mark.parametrize("seed", range(2))
def test_run_gives_what_onnxruntime_gives(network, call, tmp_path, seed):
    folder, _ = network
    model = onnx.load(folder / "model.onnx")
    feeds = random_input(np.random.default_rng(seed), model, batch=5)
    np.savez(tmp_path / "in.npz", **feeds)
    code, out, err = call("run", folder / "model.tar", "-i", tmp_path / "in.npz", "-o", tmp_path / "out.npz", "--json")
    assert (code, err) == (0, "")
    (name,) = (entry["name"] for entry in json.loads(out)["outputs"])
    expected = run_onnxruntime(model, feeds)[0]
    np.testing.assert_allclose(np.load(tmp_path / "out.npz")[name], expected, rtol=1e-4, atol=1e-4)


def test_verify_passes(network, call):
    folder, _ = network
    code, out, err = call("verify", folder / "model.onnx", "-a", folder / "model.tar", "--random", "4", "--json")
    assert (code, err) == (0, ""), out
    report = json.loads(out)
    assert report["passed"]
    assert report["forced"]["codes"] > 0
    assert report["forced"]["mismatches"] == report["forced"]["integer_mismatches"] == 0
    assert report["free"]["samples"] == 4


def test_inspect(network, call):
    folder, built = network
    report = json.loads(call("inspect", folder / "model.onnx", "--json")[1])
    assert [layer["name"] for layer in report["layers"]] == [layer["name"] for layer in built["layers"]]
    for key in ("macs", "bit_operations", "packed_parameter_bytes", "float_parameter_bytes", "activation_bytes"):
        assert report["totals"][key] == sum(layer[key] for layer in report["layers"]) > 0
    assert report["totals"]["peak_activation_bytes"] > 0
    assert all(
        layer["bit_operations"] == layer["weight_bits"] * layer["act_bits"] * layer["macs"]
        for layer in report["layers"]
        if layer["op"].startswith("LQ")
    )
    assert "MACs" in call("inspect", folder / "model.onnx")[1]


def test_inspect_of_an_artifact(network, call, shared_target):
    folder, built = network
    report = json.loads(call("inspect", folder / "model.tar", "--json")[1])
    assert (report["target"], report["format"]) == (shared_target, 1)
    assert report["variants"][0]["layers"] == built["layers"]
    text = call("inspect", folder / "model.tar")[1]
    assert all(layer["name"] in text for layer in built["layers"])


def test_bench_against_a_derived_twin(network, call, shared_target):
    folder, _ = network
    code, out, err = call("bench", folder / "model.onnx", "-a", folder / "model.tar", "--repeats", "2", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert set(report["against"]) == {"onnxruntime-fp32", "onnxruntime-int8"}
    assert report["variant"] == shared_target


def test_dump_ir(network, call, tmp_path, shared_target):
    folder, _ = network
    arguments = ("--target", shared_target, "-o", tmp_path / "m.tar", "--dump-ir", tmp_path / "ir", "--json")
    assert call("build", folder / "model.onnx", *arguments)[0] == 0
    assert len(list((tmp_path / "ir").iterdir())) >= 3
    assert (tmp_path / "m.tar").read_bytes()[:13] == b"manifest.json"


@pytest.mark.parametrize("command", ["build", "verify", "inspect"])
@pytest.mark.parametrize("damage", ["missing", "empty", "text", "truncated"])
def test_files_that_are_no_model(network, call, tmp_path, command, damage):
    folder, _ = network
    path = tmp_path / "bad.onnx"
    content = {"empty": b"", "text": b"hello, world", "truncated": (folder / "model.onnx").read_bytes()[:-50]}
    if damage != "missing":
        path.write_bytes(content[damage])
    refused(call(command, path), "bad.onnx")
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if damage == "missing" else ["bad.onnx"])


def test_unknown_target(network, call, tmp_path):
    folder, _ = network
    refused(
        call("build", folder / "model.onnx", "--target", "z80", "-o", tmp_path / "m.tar"),
        "target 'z80': unknown; known",
    )
    assert not list(tmp_path.iterdir())


def test_artifacts_that_do_not_fit(network, call, tmp_path, shared_target):
    folder, _ = network
    data = (folder / "model.tar").read_bytes()
    path = tmp_path / "bad.tar"
    path.write_bytes(data[: len(data) // 2])
    refused(call("run", path, "--random", "1"), "found a truncated")
    path.write_bytes(data.replace(b"ELF", b"elf", 1))
    refused(call("run", path, "--random", "1"), f"found member 'lib/{shared_target}.so' altered")
    artifact = read_artifact(folder / "model.tar")
    write_artifact(path, {**artifact.manifest, "machine": "aarch64"}, artifact.members)
    refused(call("run", path, "--random", "1"), "found code for aarch64 on linux, expected x86_64")
    variants = [{**variant, "requires": ["avx10.9"]} for variant in artifact.manifest["variants"]]
    write_artifact(path, {**artifact.manifest, "variants": variants}, artifact.members)
    refused(call("run", path, "--random", "1"), "found a CPU without avx10.9")


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupted_build_leaves_nothing(network, tmp_path):
    folder, _ = network
    arguments = ["build", str(folder / "model.onnx"), "-o", str(tmp_path / "m.tar"), "--dump-ir", str(tmp_path / "ir")]
    child = subprocess.Popen([sys.executable, "-m", "lqcompile", *arguments], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "ir" / "1_plan.txt").exists():
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=120)
    assert (child.returncode, err) == (130, "lqcompile: interrupted\n")
    assert [entry.name for entry in tmp_path.iterdir()] == ["ir"]
