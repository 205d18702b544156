"""Networks that are prepared on one machine and checked on another, with the made-up driver for a GPU."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import emulated_gpu
import gpu_cases
import numpy as np
import pytest
from plans import random_low_bit, random_quantizer

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from gpu_series import prepared  # noqa: E402

from lqcompile.cuda import nvrtc  # noqa: E402
from lqcompile.graph.plan import Geometry  # noqa: E402

TARGET = "cuda-h200"


def tiny(_target: str) -> gpu_cases.Case:
    """One layer of 2x3 pixels."""
    rng = np.random.default_rng(6)
    builder = gpu_cases.Sampled(rng, (33, 2, 3), samples=2)
    codes = builder.quantized_input(random_quantizer(rng, 1, integer=True))
    weights = random_low_bit(rng, (32, 33, 1, 1), 1, integer=True)
    plan = builder.finish(*builder.contract(codes, weights, Geometry()))
    return gpu_cases.Case(plan=plan, x=builder.held["x"])


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One prepared network, of emulated kernels."""
    folder = tmp_path_factory.mktemp("prepared")
    patch = pytest.MonkeyPatch()
    patch.setattr(nvrtc, "compile_cuda", emulated_gpu.compile_emulated)
    patch.setitem(gpu_cases.MATRIX, "A tiny, new one", tiny)
    path = prepared.place(folder, "A tiny, new one", TARGET)
    assert prepared.make_one("A tiny, new one", TARGET, path) == "cuda-h200--a-tiny-new-one"
    patch.undo()
    return path


@pytest.fixture(autouse=True)
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up driver in the processes of checks."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(emulated_gpu.driver().path.parent))


def test_a_sound_network_and_one_that_is_wrong(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = replace(pickle.loads(kept.read_bytes()), copies=2)  # noqa: S301 - written above
    wrong = replace(case, compiled=replace(case.compiled, parameters=bytes(len(case.compiled.parameters))))
    for name, content in (("right", case), ("wrong", wrong)):
        (tmp_path / f"{name}.case").write_bytes(pickle.dumps(content))
    assert prepared.main(["check", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "ok     right" in lines and any(line.startswith("FAILED wrong: ") for line in lines)
    assert lines[-2:] == ["1 of 2 networks equal the reference", "failed: wrong"]


def test_a_check_that_does_not_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "endless.case").touch()
    under = f"{sys.executable} -c 'import time; time.sleep(60)'"
    assert prepared.main(["check", str(tmp_path), "--limit", "0.4", "--under", under]) == 1
    assert "FAILED endless: found no end after 0.4 s: a kernel that waits for ever" in capsys.readouterr().out


def test_nothing_prepared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepared.main(["check", str(tmp_path)]) == 1
    assert "found no prepared networks, expected some; 'make' makes them" in capsys.readouterr().out


def test_checks_need_no_compiler() -> None:
    code = f"import sys; sys.path.append({str(ROOT / 'tests')!r}); import kept_plans; print('tvm' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
