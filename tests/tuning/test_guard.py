"""Records of a network that runs no faster with them are dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tunings import TARGET, Formula, pretend

from lqcompile.cli.tuning import network_words
from lqcompile.records.tuned import read_tuned
from lqcompile.tuning import guard as guarding
from lqcompile.tuning.budget import Budget
from lqcompile.tuning.guard import ROUNDS, compare_here, guard


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[Path]]]:
    """Target and records of what would be built."""
    found: list[tuple[str, list[Path]]] = []

    def build(
        _model: Path, *, target: str, output: Path, records: list[Path], cpu_model: str, batch: int | None
    ) -> None:
        assert cpu_model == "Test CPU" and output.suffix == ".tar" and batch is None
        found.append((target, records))

    monkeypatch.setattr(guarding, "build", build)
    return found


def times(gain: float, noise: float = 0.0) -> Any:
    """Readings of an artifact without and with records; `noise` is a part of the gain."""
    return lambda _paths, _samples: [
        [gain * (1 + noise * (turn % 3 - 1)) * (1 + 0.1 * (turn % 3)) * 1e-3 for turn in range(9)],
        [1e-3 + 1e-4 * (turn % 3) for turn in range(9)],
    ]


def test_a_faster_network_keeps_its_records(tmp_path: Path, builds: list[tuple[str, list[Path]]]) -> None:
    result = pretend(tmp_path, Budget(trials=40))
    found, verdict = guard(result, Path("model.onnx"), TARGET, tmp_path, times(1.1))
    assert builds == [(TARGET.name, []), (TARGET.name, [tmp_path])]
    assert verdict is not None and verdict.kept and verdict.gain == pytest.approx(1.1)
    assert found is result and read_tuned(tmp_path) == list(result.tuned)
    assert network_words(verdict.to_json()).startswith("With these kernels the network runs 1.100 x as fast as without")


@pytest.mark.parametrize(("gain", "noise"), [(0.98, 0.0), (1.01, 0.1)])
def test_a_network_that_is_not_surely_faster_loses_them(
    tmp_path: Path, builds: list[tuple[str, list[Path]]], gain: float, noise: float
) -> None:
    result = pretend(tmp_path, Budget(trials=40))
    assert any(entry.gain > 1 for entry in result.tuned)
    found, verdict = guard(result, Path("model.onnx"), TARGET, tmp_path, times(gain, noise))
    assert len(builds) == 2 and verdict is not None and not verdict.kept
    assert all(entry.best == entry.untuned and entry.gain == 1.0 for entry in found.tuned)
    assert read_tuned(tmp_path) == [entry for entry in result.tuned if entry.best == entry.untuned]
    assert network_words(verdict.to_json()).endswith("in one interleaved run: their records were dropped.")


def test_without_another_kernel_nothing_is_timed(tmp_path: Path, builds: list[tuple[str, list[Path]]]) -> None:
    def refuse(_paths: Sequence[Path], _samples: int) -> list[list[float]]:
        raise AssertionError("nothing to compare")

    result = pretend(tmp_path, Budget(trials=20), Formula(lambda _candidate: 3e-5))
    assert guard(result, Path("model.onnx"), TARGET, tmp_path, refuse) == (result, None)
    assert builds == []


@pytest.mark.parametrize("samples", [1, 32])
def test_a_gpu_runs_the_batch_that_was_tuned_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    asked: list[int | None] = []
    monkeypatch.setattr(guarding, "build", lambda *_model, batch, **_options: asked.append(batch))

    def compare(paths: Sequence[Path], samples: int) -> list[list[float]]:
        asked.append(samples)
        return times(1.1)(paths, samples)

    gpu = replace(TARGET, machine="cuda", samples=samples)
    guard(pretend(tmp_path, Budget(trials=40)), Path("model.onnx"), gpu, tmp_path, compare)
    assert asked == [samples, samples, samples]


def test_artifacts_are_timed_interleaved(classifier: Path) -> None:
    readings = compare_here([classifier / "model.tar", classifier / "model.tar"], 1)
    assert [len(entry) for entry in readings] == [ROUNDS, ROUNDS] and min(map(min, readings)) > 0
