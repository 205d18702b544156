"""``lqcompile report``: from an artifact or from saved files to a page, and what is refused."""

import importlib.util
import json

import loopback
import numpy as np
import pytest
from commands import refused
from profiles import BENCH, VERIFICATION, profile

from lqcompile.runtime import load


@pytest.fixture
def saved(tmp_path):
    """Folder with profile.json, verified.json and benched.json."""
    for name, content in (("profile", profile()), ("verified", VERIFICATION), ("benched", BENCH)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_from_an_artifact_with_its_model_on_a_board(classifier, call, tmp_path):
    (port,) = load(classifier / "model.tar").inputs
    images = np.random.default_rng(0).standard_normal((5, *port.shape)).astype(np.float32)
    np.savez(tmp_path / "samples.npz", images=images, labels=np.zeros(5, np.int64))
    with loopback.server(tmp_path) as board:
        options = ("--model", classifier / "model.onnx", "--samples", tmp_path / "samples.npz", "--rpc", board.name)
        arguments = (classifier / "model.tar", *options, "--limit", "0", "-o", tmp_path / "page.html")
        code, out, err = call("report", *arguments, "--json")
        assert (code, err) == (0, "")
        report = json.loads(out)
    page = (tmp_path / "page.html").read_text()
    assert report["bytes"] == len(page.encode())
    assert report["verification"]["passed"] and "accuracy" in report["verification"]
    assert f"{report['verification']['forced']['codes']:,} codes compared, 0 differ" in page
    assert f"board {board.name}" in page and "right answers" in page
    assert all(layer["name"] in page for layer in report["profile"]["layers"])


def test_from_saved_files(saved, call):
    files = ("--verified", saved / "verified.json", "--benched", saved / "benched.json")
    code, out, err = call("report", saved / "profile.json", *files)
    assert (code, err) == (0, "")
    assert out.startswith(f"Wrote {saved / 'profile.html'}, ")
    page = (saved / "profile.html").read_text()
    for text in ("12,345 codes compared", "onnxruntime-int8", "93.5 %"):
        assert text in page


def test_files_that_are_no_report(saved, call, classifier):
    before = sorted(path.name for path in saved.iterdir())
    (saved / "broken.json").write_text('{"a": ')
    message = "found no JSON (Expecting value"
    refused(call("report", saved / "broken.json"), message)
    refused(call("report", saved / "profile.json", "--verified", saved / "broken.json"), message)
    refused(call("report", saved / "profile.json", "--benched", saved / "broken.json"), message)
    refused(call("report", saved / "benched.json"), "found JSON without the key 'lqcompile_profile'")
    message = "found no JSON ("
    refused(call("report", classifier / "model.onnx", "-o", saved / "page.html"), message)
    refused(
        call("report", saved / "none.tar"),
        "found no such file or directory, expected a readable file; give an",
    )
    assert sorted(path.name for path in saved.iterdir()) == sorted([*before, "broken.json"])


def test_a_page_that_cannot_be_written_is_found_before_measuring(saved, call, classifier):
    refused(call("report", classifier / "model.tar", "-o", saved / "none" / "page.html"), "found no folder")
    refused(call("report", saved / "profile.json", "-o", saved), "found is a directory, expected a file name")


def test_options_that_do_not_go_together(saved, call, classifier):
    artifact, model = classifier / "model.tar", classifier / "model.onnx"
    page = ("-o", saved / "page.html")
    refused(
        call("report", artifact, *page, "--alternatives"), "found --alternatives without --model, expected the ONNX"
    )
    refused(call("report", artifact, *page, "--samples", "a.npz"), "found --samples without --model, expected")
    verified = ("--verified", saved / "verified.json")
    refused(call("report", artifact, *page, "--model", model, *verified), "found --model and --verified, expected one")
    refused(
        call("report", saved / "profile.json", "--model", model),
        "found --model with what is no artifact, expected an artifact to measure anew; a saved profile",
    )
    assert not (saved / "page.html").exists()


def test_an_emulated_board_is_refused(classifier, call, tmp_path):
    with loopback.server(tmp_path, fault="emulated") as board:
        arguments = (classifier / "model.tar", "--limit", "0", "--rpc", board.name, "-o", tmp_path / "page.html")
        refused(call("report", *arguments), "found qemu-user emulation, expected hardware")
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_named(saved, call, monkeypatch, name):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda item: None if item == name else found(item))
    message = f"report: found no {name}, expected the report extra; pip install 'lqcompile[report]'"
    refused(call("report", saved / "profile.json"), message)
    assert not (saved / "profile.html").exists()


def test_a_variant_of_a_newer_version_is_named(saved, call):
    newer = profile()
    newer["artifact"]["variant"] = "x86-avx9000"
    (saved / "newer.json").write_text(json.dumps(newer))
    refused(call("report", saved / "newer.json"), "target 'x86-avx9000': unknown")
    assert not (saved / "newer.html").exists()
