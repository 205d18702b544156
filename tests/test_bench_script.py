"""``make bench``: what is left out says why, and what fails is named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if name != "LQCOMPILE_BENCH_LONG"}
    command = ["bash", str(ROOT / "scripts" / "bench.sh"), sys.executable, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env=plain | environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, code in (("accuracy", "print('hours')"), ("layers", "print('times')")):
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


def test_long_ones_are_asked_for(folder: Path) -> None:
    done = run(folder)
    assert done.returncode == 0
    assert done.stdout == (
        "== accuracy.py: left out: it takes an hour or more, LQCOMPILE_BENCH_LONG=1 runs it\n== layers.py\ntimes\n"
    )
    assert run(folder, LQCOMPILE_BENCH_LONG="1").stdout == "== accuracy.py\nhours\n== layers.py\ntimes\n"


def test_those_of_gpus_need_one_and_failures_are_named(folder: Path) -> None:
    (folder / "gpu.py").write_text("print('a GPU')")
    (folder / "ports.py").write_text("raise SystemExit(1)")
    done = run(folder, CUDA_VISIBLE_DEVICES="-1")
    assert done.returncode == 1
    assert "== gpu.py: left out: CUDA: " in done.stdout and "a GPU" not in done.stdout.splitlines()
    assert done.stdout.endswith("== ports.py\nfailed: ports.py\n")
