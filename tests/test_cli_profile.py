"""``lqcompile profile``: a small network here and on a board, and what is refused."""

import json
import re

import loopback
import numpy as np
import onnx
import pytest
from commands import refused
from models import classifier_model

from lqcompile.artifact import read_artifact, write_artifact
from lqcompile.runtime import load


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    with loopback.server(tmp_path_factory.mktemp("board")) as program:
        yield program


def profile(call, *arguments):
    code, out, err = call("profile", *arguments, "--limit", "0.1", "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def check(report, model):
    """The sums of a report, and that it tells of every region of a network."""
    assert [layer["name"] for layer in report["layers"]] == [region["name"] for region in model.variant["regions"]]
    kernels = {layer["name"]: layer["work"]["kernel"] for layer in report["layers"] if layer["work"]}
    assert kernels == {layer["name"]: layer["kernel"] for layer in model.variant["layers"]}
    layers = sum(layer["time"]["median_us"] for layer in report["layers"])
    total = layers + report["call_us"] + report["interruptions_us"] + report["unaccounted_us"]
    assert total == pytest.approx(1e3 * report["whole"]["median_ms"])
    assert all(layer["work"]["bound"]["us"] > 0 for layer in report["layers"] if layer["work"])
    assert report["machine"]["clock_hz"] > 0 and report["whole"]["readings"] > 0


def test_here(classifier, call, tmp_path):
    model = load(classifier / "model.tar")
    (port,) = model.inputs
    np.save(tmp_path / "in.npy", np.zeros((3, *port.shape), np.float32))
    report = profile(call, classifier / "model.tar", "--input", tmp_path / "in.npy")
    check(report, model)
    assert report["machine"]["name"] == "this machine" and report["machine"]["emulator"] is None
    assert {layer["work"]["alternatives_from"] for layer in report["layers"] if layer["work"]} <= {"cost table", None}


def test_tables(classifier, call):
    code, out, err = call("profile", classifier / "model.tar", "--limit", "0")
    assert (code, err) == (0, "")
    model = load(classifier / "model.tar")
    for text in (
        "of bound",
        "fits into",
        "Why these kernels",
        "interruptions",
        "unaccounted for",
        "100.0 %",
        "GHz measured",
    ):
        assert text in out
    assert re.search(r"\b(1 pass|[\d,]+ passes); the median", out)
    assert all(layer["reason"] in out for layer in model.variant["layers"])
    assert "EMULATION" not in out


def test_alternatives_are_timed_from_the_model(classifier, call):
    report = profile(call, classifier / "model.tar", "--alternatives", "--model", classifier / "model.onnx")
    works = [layer["work"] for layer in report["layers"] if layer["work"]]
    timed = [work for work in works if work["alternatives_from"] == "measured"]
    assert timed
    for work in timed:
        assert len(work["alternatives"]) > 1 and all(entry["us"] > 0 for entry in work["alternatives"])
        assert {entry["kernel"]: entry["times"] for entry in work["alternatives"]}[work["kernel"]] == 1.0


def test_on_a_board(classifier, call, board):
    report = profile(call, classifier / "model.tar", "--rpc", board.name)
    check(report, load(classifier / "model.tar"))
    assert report["machine"]["name"] == f"board {board.name}"
    assert set(report["conditions"]["before"]) == {"clock_mhz", "governor", "temperature_c", "throttled"}


def test_an_emulated_board_is_refused_unless_asked(classifier, call, tmp_path):
    with loopback.server(tmp_path, fault="emulated") as board:
        arguments = (classifier / "model.tar", "--limit", "0", "--rpc", board.name)
        message = f"board {board.name}: found qemu-user emulation, expected hardware, for times under emulation"
        refused(call("profile", *arguments), message)
        code, out, err = call("profile", *arguments, "--emulated")
        assert (code, err) == (0, "")
        assert "UNDER EMULATION (qemu-user): these times mean nothing." in out


def test_a_model_that_is_not_the_artifacts(classifier, call, tmp_path):
    onnx.save(classifier_model(np.random.default_rng(12), shape=(1, 8, 8)), tmp_path / "other.onnx")
    arguments = (classifier / "model.tar", "--limit", "0", "--alternatives")
    message = "which the artifact was built from; give that file, or build it again"
    refused(call("profile", *arguments, "--model", tmp_path / "other.onnx"), message)
    refused(call("profile", *arguments), "profile: found --alternatives or --model alone, expected both")


def test_no_artifact(classifier, call, tmp_path):
    refused(call("profile", classifier / "model.onnx"), "found another kind of file, expected an artifact")
    refused(call("profile", tmp_path / "none.tar"), "found no such file or directory, expected a readable file")


def test_an_artifact_for_another_cpu(classifier, call, tmp_path):
    code, _, err = call("build", classifier / "model.onnx", "--target", "arm-dotprod", "-o", tmp_path / "arm.tar")
    assert (code, err) == (0, "")
    refused(call("profile", tmp_path / "arm.tar"), "found code for aarch64 on linux, expected x86_64 on linux")


def test_samples_run_one_after_another_on_a_cpu(classifier, call):
    message = "found a batch of 8, expected none, for it runs one sample after another; leave --batch out"
    refused(call("profile", classifier / "model.tar", "--batch", 8), message)


def test_an_artifact_of_an_older_version(classifier, call, tmp_path):
    artifact = read_artifact(classifier / "model.tar")
    (variant,) = artifact.manifest["variants"]
    regions = [{key: value for key, value in region.items() if key != "bytes"} for region in variant["regions"]]
    older = artifact.manifest | {"variants": [variant | {"regions": regions}]}
    write_artifact(tmp_path / "older.tar", older, artifact.members)
    message = "found a manifest without bytes of regions, expected those that newer versions write; build it again"
    refused(call("profile", tmp_path / "older.tar"), message)


def test_more_threads_than_processors(classifier, call):
    refused(call("profile", classifier / "model.tar", "--threads", "4096"), "threads: found 4096, expected at most")
