"""From an ONNX file to a verified board, as a user goes: build, bundle, unpack, serve, verify, run; on emulated CPUs.

The bundle is the one that scripts/emulated-board.sh made, with lqcompile in it as the sources are now.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from board import BUNDLE, CPUS, FOLDER, Board, serving

from lqcompile import bundle as bundling
from lqcompile.cli import main

DATA = Path(bundling.__file__).parent / "data"
MODEL = DATA / "fashion_mnist_w2a2.onnx"
SAMPLES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The bundle unpacked, the shipped model compiled for all 64-bit ARM boards and for one, and a few samples."""
    Board()
    folder = tmp_path_factory.mktemp("user")
    shutil.copytree(BUNDLE, folder / "lqcompile-board")
    for name, data in bundling.lqcompile_files().items():
        path = folder / "lqcompile-board" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
    for target in ("arm-cpu", "arm-dotprod"):
        assert main(["build", str(MODEL), "--target", target, "-o", str(folder / f"{target}.tar")]) == 0
    with np.load(DATA / "fashion_mnist_test.npz") as data:
        rng = np.random.default_rng(0)
        chosen = rng.choice(len(data["labels"]), SAMPLES, replace=False)
        np.savez(folder / "samples.npz", images=data["images"][chosen], labels=data["labels"][chosen])
    return folder


def environment(cpu):
    return os.environ | {"LQCOMPILE_PYTHON": str(FOLDER / "python"), "LQCOMPILE_BOARD_CPU": cpu, "OMP_NUM_THREADS": "1"}


def on_board(folder, *arguments, cpu="cortex-a72"):
    """Run the bundle's ``lqcompile`` on the board."""
    command = [folder / "lqcompile-board" / "lqcompile", *map(str, arguments)]
    return subprocess.run(command, env=environment(cpu), capture_output=True, text=True, timeout=120, check=False)


def printed_json(capsys, *arguments):
    capsys.readouterr()
    code = main([*map(str, arguments), "--json"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def test_the_bundle_is_small_and_holds_no_compiler(folder):
    assert (FOLDER / "board.tar.gz").stat().st_size < 40e6
    packages = {path.name for path in (folder / "lqcompile-board").glob("*/*")}
    assert {"tvm", "tvm_ffi", "numpy", "lqcompile"} <= packages
    assert not packages & {"torch", "onnx", "onnx_ir", "onnxruntime", "ziglang"}
    libraries = {path.name for path in (folder / "lqcompile-board" / "common" / "tvm" / "lib").iterdir()}
    assert libraries == {"libtvm_runtime.so", "libtvm_runtime_extra.so"}


@pytest.mark.parametrize("cpu", CPUS)
def test_equal_to_onnx_runtime_on_the_board(folder, capsys, cpu):
    with serving([folder / "lqcompile-board" / "serve"], environment(cpu)) as server:
        options = ("--samples", folder / "samples.npz", "--rpc", f"127.0.0.1:{server.port}")
        report = printed_json(capsys, "verify", MODEL, "--artifact", folder / "arm-cpu.tar", *options)
        assert report["passed"]
        assert report["forced"]["codes"] > SAMPLES * 10_000
        assert report["forced"]["mismatches"] == report["forced"]["integer_mismatches"] == 0


def test_run_on_the_board_itself(folder, tmp_path):
    inputs = f"x={tmp_path / 'x.npy'}"
    with np.load(folder / "samples.npz") as samples:
        np.save(tmp_path / "x.npy", np.float32(samples["images"][:, None]) / 255)
    results = {}
    for cpu in ("cortex-a53", "neoverse-n1"):
        done = on_board(folder, "run", folder / "arm-cpu.tar", "-i", inputs, "-o", tmp_path / "y.npz", cpu=cpu)
        assert done.returncode == 0, done.stderr
        assert not re.search(r"\d ms", done.stdout)
        with np.load(tmp_path / "y.npz") as outputs:
            [results[cpu]] = outputs.values()
    assert results["cortex-a53"].shape == (SAMPLES, 10)
    assert (results["cortex-a53"] == results["neoverse-n1"]).all()


def test_an_artifact_for_another_cpu_is_refused_before_it_runs(folder):
    done = on_board(folder, "run", folder / "arm-dotprod.tar", "--random", "1", cpu="cortex-a72")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"lqcompile: error: .*dotprod.*\n", done.stderr)


def test_building_on_the_board_is_refused(folder):
    done = on_board(folder, "build", "model.onnx")
    assert (done.returncode, done.stdout) == (1, "")
    assert "build: found no compiler here" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_profile_of_the_board_must_be_asked_for(folder, capsys):
    with serving([folder / "lqcompile-board" / "serve"], environment("cortex-a72")) as server:
        arguments = ("profile", str(folder / "arm-cpu.tar"), "--limit", "0", "--rpc", f"127.0.0.1:{server.port}")
        assert main(arguments) == 1
        assert "found qemu-user emulation, expected hardware" in capsys.readouterr().err
        report = printed_json(capsys, *arguments, "--emulated")
    assert (report["machine"]["emulator"], report["artifact"]["variant"]) == ("qemu-user", "arm-neon")
    works = [layer["work"] for layer in report["layers"] if layer["work"]]
    assert {work["kernel"] for work in works} <= {"popcount", "dot8"}
    assert all(work["bound"] is None for work in works), "arm-neon stands for unlike cores"
    assert all(layer["time"]["median_us"] >= 0 for layer in report["layers"])
