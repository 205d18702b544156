"""The command line, on fakes of the compiler: what is printed where, and with which exit code."""

import errno
import json
import os
import shlex
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import onnx
import pytest
import typer
from onnx import helper, numpy_helper
from rich.console import Console

from lqcompile import cli
from lqcompile.cli import console
from lqcompile.cli.building import show_build
from lqcompile.errors import LQCompileError
from lqcompile.files import write_atomically

PROGRAM = (sys.executable, "-m", "lqcompile")

LAYERS = [
    {"name": "conv1", "op": "LQConv", "weight_bits": 2, "act_bits": 2, "kernel": "popcount", "reason": "fastest [a]"},
    {"name": "fc", "op": "Gemm", "weight_bits": 32, "act_bits": 32, "kernel": "float", "reason": "float weights"},
]

BUILD = {
    "artifact": "model.tar",
    "target": "x86",
    "seconds": 1.25,
    "bytes": {"onnx": 1000, "packed_weights": 500, "artifact": 20480},
    "layers": LAYERS,
    "variants": ["x86-avx2"],
    "measured": [],
    "records": {},
}

LAYER = {"codes": 12345, "mismatches": 0, "near_threshold": 1, "integers": 500, "integer_mismatches": 0}
LAYER |= {"floats": 10, "float_mismatches": 0}

VERIFY = {
    "passed": True,
    "reference": "integer form",
    "forced": {"layers": 2, **LAYER, "per_layer": [{"name": "conv1", **LAYER}, {"name": "fc", **LAYER}]},
    "free": {"samples": 3, "top1_agreement": 1.0, "max_abs_diff": 0.0, "outputs": 30, "output_mismatches": 0},
    "accuracy": {"reference": 0.5, "compiled": 0.5},
}


class Report:
    def __init__(self, content):
        self.content = content

    def to_json(self):
        return self.content


class Compiled:
    """Doubles its input."""

    inputs = (types.SimpleNamespace(name="x", shape=(4,), dtype="float32"),)
    outputs = (types.SimpleNamespace(name="y", shape=(4,), dtype="float32"),)
    variant = {"name": "avx2"}  # noqa: RUF012

    def run(self, inputs):
        return {"y": inputs["x"] * 2}


@pytest.fixture
def compiler(monkeypatch):
    """Replaces the compiler, the runtime and verify; gives the arguments that they got and the reports they give."""
    seen = types.SimpleNamespace(build={}, load={}, verify={}, report=json.loads(json.dumps(VERIFY)))

    def build(model, *, progress, **options):
        seen.build = {"model": model} | options
        progress("lowering", 0.5)
        write_atomically(options["output"], b"artifact")
        return Report(BUILD)

    def load(path, *, threads=None):
        seen.load = {"path": path, "threads": threads, "exists": path.exists()}
        return Compiled()

    def verify(model, compiled, samples, labels=None, progress=None):
        seen.verify = {"model": model, "samples": samples, "labels": labels}
        return Report(seen.report)

    for name, function in (("build", build), ("verify", verify)):
        monkeypatch.setitem(sys.modules, f"lqcompile.{name}", types.SimpleNamespace(**{name: function}))
    runtime = types.SimpleNamespace(load=load, CompiledModel=Compiled)
    monkeypatch.setitem(sys.modules, "lqcompile.runtime", runtime)
    return seen


def one_error(err):
    """The one line of an error."""
    lines = err.splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("lqcompile: error: ")
    return lines[0]


def float_model(path):
    weight = numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [value("x", onnx.TensorProto.FLOAT, ["N", 4])],
        [value("y", onnx.TensorProto.FLOAT, ["N", 4])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


# Help and usage


def test_help_and_version(call):
    code, out, err = call("--help")
    assert (code, err) == (0, "")
    assert all(
        name in out for name in ("build", "run", "verify", "inspect", "bench", "targets", "bundle", "serve", "demo")
    )
    assert call("--version")[1].startswith("lqcompile 0.")


def commands(group, *names):
    """All commands of the program and of its groups, with the words that name them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield pytest.param((*names, name), command, id=" ".join((*names, name)))


@pytest.mark.parametrize(("names", "command"), [*commands(typer.main.get_command(cli.app))])
def test_each_command_has_json_and_an_example_that_it_takes(call, names, command):
    code, out, _ = call(*names, "--help")
    assert code == 0
    assert ("--json" in out) == (names != ("serve",))
    example = command.epilog.removeprefix("Example: ")
    assert " ".join(example.split()) in " ".join(out.split())
    words = shlex.split(example)
    assert words[: 1 + len(names)] == ["lqcompile", *names]
    command.make_context("lqcompile", words[1 + len(names) :])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile"], "No such command 'compile'"),
        (["build"], "Missing argument"),
        (["build", "m.onnx", "--fast"], "No such option"),
        (["bench", "m.onnx", "--batch", "0"], "Input should be greater than or equal to 1"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(call, arguments, message):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert message in one_error(err)


def test_what_a_board_cannot_do_is_one_line(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "lqcompile.build", None)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    code, out, err = call("build", "model.onnx")
    assert (code, out) == (1, "")
    assert one_error(err) == (
        "lqcompile: error: build: found no compiler here, expected all of lqcompile; a board's "
        "bundle runs and serves compiled models, so do this on the machine that made the bundle"
    )


# Commands


def test_build(call, compiler, tmp_path):
    code, out, err = call("build", tmp_path / "model.onnx", "--strict", "--dump-ir", tmp_path / "ir")
    assert (code, err) == (0, "")
    assert compiler.build == {
        "model": tmp_path / "model.onnx",
        "target": "x86",
        "output": tmp_path / "model.tar",
        "select": "table",
        "records": [],
        "cpu_model": None,
        "strict": True,
        "dump_ir": tmp_path / "ir",
        "batch": None,
    }
    assert all(text in out for text in ("conv1", "popcount", "fastest [a]", "float", "Built in 1.2 s", "20.5 kB"))


def test_build_says_which_low_bit_layers_fell_back_to_float(capsys):
    layer = {"op": "LQConv", "weight_bits": 2, "act_bits": 32, "kernel": "packed", "reason": "weight-only"}
    exact = {"op": "LQConv", "weight_bits": 2, "act_bits": 2, "kernel": "popcount", "reason": "cost table"}
    plain = {"op": "Conv", "weight_bits": 32, "act_bits": 32, "kernel": "float", "reason": "weights are float32"}
    report = {
        "artifact": "model.tar",
        "target": "x86",
        "seconds": 1.0,
        "bytes": {"onnx": 1, "packed_weights": 1, "artifact": 1},
        "layers": [{"name": "stem", **plain}, {"name": "conv1", **layer}, {"name": "conv2", **exact}],
        "variants": ["x86-avx2"],
        "measured": [],
        "records": {},
    }
    show_build(report)
    assert "Not exact: conv1 run in float32 (--strict refuses that)" in " ".join(capsys.readouterr().out.split())


def test_build_json_is_the_report_alone(call, compiler, tmp_path):
    code, out, err = call("build", tmp_path / "m.onnx", "-t", "cuda", "-o", tmp_path / "a.tar", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == BUILD
    assert (compiler.build["target"], compiler.build["output"]) == ("cuda", tmp_path / "a.tar")


def test_run_writes_outputs(call, compiler, tmp_path):
    x = np.random.default_rng(5).normal(size=(3, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    arguments = ("--input", tmp_path / "x.npy", "-o", tmp_path / "y.npz", "--threads", "2", "--json")
    code, out, err = call("run", tmp_path / "m.tar", *arguments)
    assert (code, err) == (0, "")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], 2 * x)
    report = json.loads(out)
    assert report["outputs"][0] == {
        "name": "y",
        "shape": [3, 4],
        "dtype": "float32",
        "min": float(2 * x.min()),
        "max": float(2 * x.max()),
    }
    assert (report["variant"], report["file"]) == ("avx2", str(tmp_path / "y.npz"))
    assert compiler.load["threads"] == 2


def test_run_on_random_samples_prints_a_table(call, compiler, tmp_path):
    code, out, _ = call("run", tmp_path / "m.tar", "--random", "5")
    assert code == 0
    assert "[5, 4]" in out
    assert "Ran in" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "found neither or both of --input and --random, expected one of them"),
        (["--random", "1", "--input", "x.npy"], "found neither or both of --input and --random"),
        (["--input", "none.npy"], "input file 'none.npy': found"),
        (["--random", "0"], "random samples: found 0, expected at least 1"),
        (["--random", "1", "-o", "none/y.npz"], "output 'none/y.npz': found no folder 'none'"),
    ],
)
def test_run_on_wrong_inputs(call, compiler, arguments, message):
    code, out, err = call("run", "m.tar", *arguments)
    assert (code, out) == (1, "")
    assert message in one_error(err)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((2, 5), np.float32), "input 'x': found float32[2, 5], expected float32[N, 4]"),
        (np.ones((2, 4)), "input 'x': found dtype float64, expected float32"),
    ],
)
def test_run_on_a_wrong_array_writes_nothing(call, compiler, tmp_path, array, message):
    np.save(tmp_path / "x.npy", array)
    code, _, err = call("run", "m.tar", "-i", f"x={tmp_path / 'x.npy'}", "-o", tmp_path / "y.npz")
    assert code == 1
    assert message in one_error(err)
    code, _, err = call("run", "m.tar", "-i", f"z={tmp_path / 'x.npy'}", "-o", tmp_path / "y.npz")
    assert "input 'z': unknown; the model's inputs are x" in one_error(err)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npy"]


def test_verify_builds_where_no_artifact_is_given(call, compiler, tmp_path):
    np.savez(tmp_path / "s.npz", x=np.ones((3, 4), np.float32), labels=[0, 1, 2])
    code, out, _ = call("verify", tmp_path / "m.onnx", "--samples", tmp_path / "s.npz", "--json")
    assert code == 0
    assert json.loads(out) == VERIFY
    assert compiler.verify["labels"].tolist() == [0, 1, 2]
    assert compiler.load["exists"]
    assert not compiler.load["path"].exists()


def test_verify_that_fails_prints_its_report_and_an_error(call, compiler, tmp_path):
    compiler.report.update(passed=False)
    compiler.report["forced"]["mismatches"] = compiler.report["forced"]["per_layer"][1]["mismatches"] = 7
    compiler.report["free"]["output_mismatches"] = 2
    (tmp_path / "m.tar").write_bytes(b"x")
    code, out, err = call("verify", "m.onnx", "--artifact", tmp_path / "m.tar", "--random", "2")
    assert code == 1
    assert "NOT equal" in out
    assert "found 7 codes, 2 outputs that differ in fc, expected none" in one_error(err)
    assert not compiler.build
    assert compiler.verify["samples"]["x"].shape == (2, 4)
    code, out, err = call("verify", "m.onnx", "--artifact", tmp_path / "m.tar", "--json")
    assert (code, json.loads(out)["passed"]) == (1, False)


def test_verify_without_labels_and_with_numbers_that_json_lacks(call, compiler):
    del compiler.report["accuracy"]
    compiler.report["free"]["max_abs_diff"] = float("nan")
    assert json.loads(call("verify", "m.onnx", "--artifact", "m.tar", "--json")[1])["free"]["max_abs_diff"] is None
    assert "Equal." in call("verify", "m.onnx", "--artifact", "m.tar")[1]


def test_bench(call, compiler, tmp_path):
    model = float_model(tmp_path / "m.onnx")
    options = ("--repeats", "3", "--batch", "2", "--float-model", model)
    code, out, err = call("bench", model, *options, "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert {"median_ms", "p90_ms", "threads", "repeats", "against"} <= set(report)
    assert list(report["against"]) == ["onnxruntime-fp32", "onnxruntime-int8"]
    assert all({"median_ms", "ratio"} <= set(peer) for peer in report["against"].values())
    assert (report["batch"], report["repeats"], report["threads"], compiler.load["threads"]) == (2, 3, 1, 1)
    code, out, _ = call("bench", model, *options, "--against", "onnxruntime-fp32")
    assert "onnxruntime-fp32" in out
    assert "onnxruntime-int8" not in out
    assert "a call with 2 samples, threads: 1" in out and "Medians of 3 interleaved rounds;" in out


def test_bench_errors(call, compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(cli.benchmark, "is_for_gpu", lambda work: False)  # it would read the artifact
    artifact = tmp_path / "m.tar"
    artifact.write_bytes(b"manifest.json\0")
    assert "found an artifact alone, expected an ONNX file" in one_error(call("bench", artifact)[2])
    assert "peer 'tflite': unknown" in one_error(call("bench", artifact, "--against", "tflite")[2])
    code, out, _ = call("bench", artifact, "--against", "none", "--repeats", "1")
    assert code == 0 and "a call with 1 sample, threads: 1" in out and "Medians of 1 interleaved round;" in out


def test_demo_needs_its_data(call, compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(cli.demonstration, "data_folder", lambda: tmp_path)
    assert "input file" in one_error(call("demo")[2])
    np.savez(tmp_path / cli.demonstration.IMAGES, images=np.zeros((2, 4), np.uint8))
    assert "found no 'labels', expected them; install lqcompile again" in one_error(call("demo")[2])


def test_demo(call, compiler, monkeypatch, tmp_path):
    monkeypatch.setattr(cli.demonstration, "data_folder", lambda: tmp_path)
    float_model(tmp_path / cli.demonstration.MODEL)
    float_model(tmp_path / cli.demonstration.FLOAT_MODEL)
    images = np.random.default_rng(2).integers(0, 256, (120, 4), dtype=np.uint8)
    np.savez(tmp_path / cli.demonstration.IMAGES, images=images, labels=images.argmax(axis=1))
    code, out, err = call("demo", "--repeats", "2", "--json")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["build"] == BUILD
    assert report["verify"] == VERIFY
    assert set(report["bench"]["against"]) == {"onnxruntime-fp32", "onnxruntime-int8"}
    assert report["peers"]["onnxruntime-fp32"]["accuracy"] == 1.0
    code, out, _ = call("demo", "--repeats", "2")
    assert code == 0
    assert all(text in out for text in ("right answers", "time for one image", "12,345 codes of 2 layers"))
    compiler.report["passed"] = False
    code, out, err = call("demo", "--repeats", "2")
    assert (code, " NO " in out) == (1, True)


def test_targets(call):
    code, out, _ = call("targets", "--json")
    assert code == 0
    names = [entry["name"] for entry in json.loads(out)["targets"]]
    assert "x86" in names
    text = call("targets")[1]
    assert all(name in text for name in names)


# Errors


def test_debug_shows_the_traceback_wherever_it_stands(call, compiler, tmp_path):
    for arguments in (["--debug", "run", "m.tar"], ["run", "m.tar", "--debug"]):
        code, _, err = call(*arguments)
        assert code == 1
        assert "Traceback" in err
        assert err.splitlines()[-1].startswith("lqcompile: error: run: found neither")


def test_a_message_of_several_lines_is_put_on_one(call, compiler, monkeypatch):
    def fail(*_, **__):
        raise LQCompileError("first\n  second")

    monkeypatch.setattr(sys.modules["lqcompile.build"], "build", fail)
    assert one_error(call("build", "m.onnx")[2]) == "lqcompile: error: first second"


def test_disk_full(call, compiler, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "write", full)
    code, out, err = call("build", "m.onnx", "-o", tmp_path / "m.tar")
    assert (code, out) == (1, "")
    assert "found a full disk, expected room for 8 bytes" in one_error(err)
    assert not list(tmp_path.iterdir())


def test_interrupt_in_the_process(call, compiler, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["lqcompile.build"], "build", stop)
    code, out, err = call("build", "m.onnx")
    assert (code, out, err) == (130, "", "lqcompile: interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_nothing_behind(tmp_path, number, expected):
    """A build that hangs while the artifact is being written, stopped from outside."""
    script = (
        "import os, sys, time, types\n"
        "from lqcompile.cli import main\n"
        "from lqcompile.files import write_atomically\n"
        "def build(model, *, output, **_):\n"
        "    write_atomically(output, b'x' * 1000)\n"
        "def hang(_):\n"
        "    print('writing', flush=True)\n"
        "    time.sleep(60)\n"
        "os.fsync = hang\n"
        "sys.modules['lqcompile.build'] = types.SimpleNamespace(build=build)\n"
        "sys.exit(main())\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, "build", "m.onnx", "-o", str(tmp_path / "m.tar")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout.readline() == b"writing\n"
    child.send_signal(number)
    _, err = child.communicate(timeout=30)
    assert child.returncode == expected
    assert b"Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_standard_output_on_a_full_disk_is_one_line(options):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "targets", *options], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 1
    assert "found a full disk, expected room for standard output and for temporary files" in one_error(done.stderr)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_reader_that_leaves_ends_the_program_without_a_word(options):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, "targets", *options], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_another_error_of_the_system_is_not_hidden(call, compiler, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys.modules["lqcompile.build"], "build", fail)
    with pytest.raises(OSError, match="Input/output error"):
        call("build", "m.onnx")


def test_a_narrow_terminal_breaks_no_figure(capsys, monkeypatch):
    monkeypatch.setattr(console, "_console", lambda: Console(width=80, force_terminal=True, color_system=None))
    figures = [f"{10 ** (4 + index):,}" for index in range(7)]
    columns = ["layer", "operator", *(f"some figures of {index}" for index in range(7))]
    console.print_table("model.onnx", columns, [("node_lq_conv2d_1", "LQConv", *figures)])
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert sum("node_lq_conv2d_1" in line for line in lines) > 1
    assert all(any(figure in line.split() for line in lines) for figure in figures)


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch):
    clock = iter((0.0, 9.9, 10.0, 19.9, 20.1))
    monkeypatch.setattr(console.time, "monotonic", lambda: next(clock))
    with console.progress_bar("Building m.onnx") as move:
        for part in (0.1, 0.2, 0.3, 0.4):
            move("compiling", part)
    lines = "Building m.onnx: compiling, 20 %\nBuilding m.onnx: compiling, 40 %\n"
    assert capsys.readouterr() == ("", lines)


def test_module_runs_as_a_program():
    done = subprocess.run([*PROGRAM, "run"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "Missing argument" in one_error(done.stderr)


def test_build_does_not_overwrite_its_model(call, compiler, tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"model")
    code, _, err = call("build", tmp_path / "m.onnx", "-o", tmp_path / "m.onnx")
    assert code == 1
    assert "found the model itself, expected another name; choose one with --output" in one_error(err)
    assert (tmp_path / "m.onnx").read_bytes() == b"model"
