"""Tuning on boards: two emulated ones of which one is lost, and servers on this machine where times are real."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import loopback
import numpy as np
import onnx
import pytest
from board import Board
from compiling import missing
from models import chain_model
from tunings import KEY, network

from lqcompile.build import build
from lqcompile.cli import main
from lqcompile.errors import DeviceError
from lqcompile.lowering.choose import Candidate
from lqcompile.records.tuned import read_tuned
from lqcompile.runtime import load
from lqcompile.target import find
from lqcompile.trials import is_equal
from lqcompile.tuning.boards import Boards, open_pool, probe
from lqcompile.tuning.pool import BoardPool
from lqcompile.tuning.task import make_tasks
from lqcompile.tuning.work import Measure, Reading, compile_candidates, read_compiled

ARM = find("arm-neon")
runs_here = pytest.mark.skipif(bool(missing(find("x86-avx2"))), reason="this CPU does not run x86-avx2")


def check_only(work: Measure, site: Any, equal: Any) -> Reading:
    """Runs a candidate and compares its integers; there is no clock that means anything."""
    compiled = read_compiled(work.compiled)
    assert is_equal(site.open(compiled.job), compiled.checks[0], equal)
    return Reading(seconds=1.0, uncertainty=0.0, readings=1, pauses=0)


def test_two_emulated_boards_of_which_one_is_killed(tmp_path: Path) -> None:
    task = make_tasks(network(), ARM, KEY, lambda _doing, _share: None)[0]
    task.save(tmp_path / "task")
    candidates = [Candidate(family=family, tile=space.tiles[0]) for family, space in task.spaces.items()]
    paths = [
        compile_candidates(str(tmp_path / "task"), (candidate,), str(tmp_path / f"candidate{index}"))
        for index, candidate in enumerate(candidates)
    ]
    options = ("--key", "arm", "--tracker")
    lines: list[str] = []
    seen: list[str] = []
    with (
        loopback.tracker(tmp_path) as tracker,
        Board().serve(*options, tracker.name) as one,
        Board().serve(*options, tracker.name),
    ):
        boards = Boards(tracker=tracker.address, key="arm", timeout_s=60.0)
        with pytest.raises(DeviceError, match="emulation, expected hardware, for times under emulation mean nothing"):
            probe(boards, ARM)
        _, key = probe(boards, ARM, refuse=lambda _device: None)
        both, first = threading.Event(), threading.Lock()

        def run(work: Any, site: Any) -> Any:
            seen.append(str(site.device))
            if len(set(seen)) == 2:
                both.set()
            both.wait(60)
            if site.device.address[1] == one.port and first.acquire(blocking=False):
                one.process.kill()
            return check_only(work, site, task.expected)

        pool = open_pool(boards, ARM, key, lines.append)
        pool._run = run
        works = [Measure(task=str(tmp_path / "task"), compiled=path, best_s=None) for path in paths * 3]
        futures = [pool.submit(work) for work in works]
        assert [future.result(300).readings for future in futures] == [1] * len(works)
        assert len(set(seen)) == 2 and len(pool.names()) == 1
        pool.close()
    assert any(re.search(r"^board .* lost \(.*\); its candidate is measured elsewhere$", line) for line in lines), lines


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of one low-bit layer."""
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    onnx.save(chain_model(np.random.default_rng(3), channels=(32, 32), size=(9, 9), integer=True), path)
    return path


@runs_here
def test_two_servers_with_real_times(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--target", "x86-avx2", "--budget", "trials=6", "--work-dir", str(tmp_path / "work"), "--timeout", "60"]
    with (
        loopback.tracker(tmp_path) as tracker,
        loopback.server(tmp_path, key="here", tracker=tracker.port),
        loopback.server(tmp_path, key="here", tracker=tracker.port),
    ):
        arguments = ["tune", str(model), *options, "--tracker", tracker.name, "--key", "here"]
        assert main([*arguments, "-o", str(tmp_path / "tuned.tar")]) == 0
    told = capsys.readouterr()
    assert told.err.count(" joins\n") == 2 and " failed" not in told.err
    entries = read_tuned(tmp_path / "work")
    assert entries and all(entry.best.us > 0 for entry in entries)
    build(model, target="x86-avx2", output=tmp_path / "untuned.tar")
    tuned, untuned = load(tmp_path / "tuned.tar"), load(tmp_path / "untuned.tar")
    (port,) = tuned.inputs
    x = {port.name: np.random.default_rng(4).normal(size=(3, *port.shape)).astype(np.float32)}
    for name, array in untuned.run(x).items():
        np.testing.assert_array_equal(tuned.run(x)[name], array)


def test_an_unknown_board_is_one_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "work"
    arguments = ["tune", str(model), "--work-dir", str(folder), "-o", str(tmp_path / "t.tar"), "--timeout", "1"]
    for options, message in (
        (["--tracker", "127.0.0.1:1", "--key", "k"], r"tracker 127.0.0.1:1: found .*, expected a tracker; start it"),
        (["--rpc", "127.0.0.1:1"], r"board 127.0.0.1:1: found no server, expected one"),
        (["--tracker", "127.0.0.1:1"], r"tune: found --tracker without --key, expected both"),
        (["--key", "k"], r"tune: found --key alone, expected --rpc or --tracker with it"),
        (["--rpc", "h:1", "--tracker", "h:2", "--key", "k"], r"tune: found --rpc and --tracker, expected one of them"),
        (["--budget", "0s"], r"budget: found '0s', expected a time"),
    ):
        assert main([*arguments, *options]) == 1
        assert re.fullmatch(f"lqcompile: error: {message}.*\n", capsys.readouterr().err)
    with loopback.tracker(tmp_path) as tracker:
        assert main([*arguments, "--tracker", tracker.name, "--key", "k"]) == 1
        message = r"tracker .*: found no board with key 'k' \(keys that exist: none\) for 1 s, expected a free one; .*"
        assert re.fullmatch(f"lqcompile: error: {message}\n", capsys.readouterr().err)
    with loopback.server(tmp_path, fault="old CPU") as server:
        assert main([*arguments, "--timeout", "30", "--rpc", server.name]) == 1
        message = r"target 'x86': found board .* to lack .*, expected boards that can run it; .*"
        assert re.fullmatch(f"lqcompile: error: {message}\n", capsys.readouterr().err)
    assert not folder.exists() and not (tmp_path / "t.tar").exists()


def test_a_pool_gives_its_boards_back() -> None:
    def connect() -> Any:
        raise DeviceError("there is none")

    pool = BoardPool(connect, 2, patience_s=5.0, report=lambda _line: None)
    assert pool.names() == []
    pool.close()
