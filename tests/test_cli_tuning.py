"""``lqcompile tune`` and ``lqcompile records`` as a user calls them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import chain_model
from tunings import Formula, formula, pretend, wrong_narrow

from lqcompile.cli.tuning import duration, status_line
from lqcompile.records.tuned import read_tuned
from lqcompile.tuning import tune as tuning
from lqcompile.tuning.budget import Budget
from lqcompile.tuning.outcome import Status


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Two working folders; in the second one some candidates failed."""
    made = [tmp_path_factory.mktemp(name) for name in ("one", "two")]
    pretend(made[0], Budget(trials=4), Formula(lambda candidate: 2 * formula(candidate)))
    pretend(made[1], Budget(trials=12), Formula(wrong_narrow))
    return made


def test_show(folders, call) -> None:
    code, out, _ = call("records", "show", folders[1])
    assert code == 0
    assert "x86-avx2 on Test CPU (avx2, bmi2, fma, popcnt), TVM" in out
    assert re.search(r"12 trials of \d contractions, [1-9]\d* failed", out)
    code, out, _ = call("records", "show", folders[0], "--json")
    shown = json.loads(out)
    assert code == 0 and len(shown["tuned"]) == 1
    assert shown["trials"] == {str(folders[0]): {"trials": 4, "failed": 0, "contractions": 1}}
    assert shown["tuned"][0]["key"]["cpu"] == "Test CPU"


def test_merge_and_export(folders, call, tmp_path) -> None:
    code, out, _ = call("records", "merge", *folders, "-o", tmp_path / "all")
    assert code == 0
    assert re.search(rf"{len(read_tuned(folders[1]))} tuned kernels, 16 trials added, 16 in all", " ".join(out.split()))
    assert len(read_tuned(tmp_path / "all")) == len(read_tuned(folders[1]))
    code, out, _ = call("records", "merge", folders[0], "-o", tmp_path / "all")
    assert code == 0 and "0 trials added, 16 in all" in " ".join(out.split())
    code, out, _ = call("records", "export", tmp_path / "all", "-o", tmp_path / "tuned.json")
    assert code == 0 and read_tuned(tmp_path / "tuned.json") == read_tuned(tmp_path / "all")
    assert len(read_tuned(folders[0])) == 1, "what is merged stays as it was"
    code, out, _ = call("records", "merge", folders[0], "-o", tmp_path / "all", "--json")
    tuned = len(read_tuned(tmp_path / "all"))
    assert code == 0 and json.loads(out) == {"output": f"{tmp_path}/all", "tuned": tuned, "added": 0, "trials": 16}
    code, out, _ = call("records", "export", tmp_path / "all", "-o", tmp_path / "tuned.json", "--json")
    assert code == 0 and json.loads(out) == {"output": f"{tmp_path}/tuned.json", "tuned": tuned}


def test_what_cannot_be_shown_merged_or_exported(folders, call, tmp_path) -> None:
    code, out, err = call("records", "export", tmp_path, "-o", tmp_path / "tuned.json")
    assert (code, out) == (1, "") and "found no such file or directory, expected a file of tuned kernels" in err
    unfinished = tmp_path / "unfinished"
    tuning.open_database(unfinished)
    code, _, err = call("records", "export", unfinished, "-o", tmp_path / "tuned.json")
    assert code == 1 and "found no tuned kernel, expected at least one; finish 'lqcompile tune'" in err
    (tmp_path / "foreign.json").write_text("{}")
    code, _, err = call("records", "merge", folders[0], tmp_path / "foreign.json", "-o", tmp_path / "all")
    assert code == 1 and "found JSON of another program" in err
    assert not (tmp_path / "all").exists() and not (tmp_path / "tuned.json").exists()


def test_the_state_in_one_line() -> None:
    status = Status(
        doing="searching",
        layers=11,
        trials=120,
        earlier=30,
        failed=2,
        best_us=5210.4,
        gain=1.234,
        seconds=75.0,
        seconds_left=59.6,
        trials_left=None,
        sites=("board a:1", "board b:2"),
    )
    assert status_line(status) == (
        "searching; 120 trials and 30 earlier ones of 11 contractions, 2 failed; best 5210 us, 1.23 x the start; "
        "1 min 15 s gone; 1 min 0 s of the search left; on board a:1, board b:2"
    )
    assert duration(4.4) == "4 s"


def test_an_interrupted_tuning_builds_from_what_it_knows(shared_target, tmp_path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(chain_model(np.random.default_rng(5), channels=(32, 32, 64), size=(9, 9), integer=True), model)
    command = [sys.executable, "-m", "lqcompile", "tune", str(model), "-t", shared_target, "--budget", "1h", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    trials, deadline = tmp_path / "model.tune" / "trials.json", time.monotonic() + 300
    while not (trials.exists() and trials.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # to all of its processes, as a terminal does
    out, err = process.communicate(timeout=300)
    assert process.returncode == 130, err
    report = json.loads(out)
    assert report["interrupted"] and report["trials"] >= 1 and not report["failures"]
    assert report["build"]["records"][shared_target]["used"] and (tmp_path / "model.tar").exists()
    assert err.endswith("lqcompile: interrupted\n") and "Tuning model.onnx for" in err


def test_what_cannot_be_tuned_is_one_line(shared_target, call, tmp_path) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(chain_model(np.random.default_rng(6), channels=(8, 8), size=(2, 2)), model)
    code, _, err = call("tune", model, "-t", "arm-neon", "--budget", "trials=1")
    assert code == 1 and "target 'arm-neon': found this machine to lack" in err
    code, _, err = call("tune", model, "-o", model)
    assert code == 1 and "found the model itself, expected another name" in err
    work = tmp_path / "file"
    work.touch()
    code, _, err = call("tune", model, "-t", shared_target, "--work-dir", work)
    assert code == 1 and "expected one that can be written; choose another one with --work-dir" in err
