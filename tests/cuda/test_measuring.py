"""Choosing kernels by measuring on a GPU: the emulated one, whose kernels take as long as they have thread blocks."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import emulated_gpu
import numpy as np
import pytest
from models import Builder
from onnx import save
from plans import PlanBuilder, random_low_bit, random_quantizer

from lqcompile.cuda import build as building
from lqcompile.cuda import driver
from lqcompile.cuda.kernels import GpuJob
from lqcompile.errors import DeviceError, LQCompileError
from lqcompile.graph.plan import Geometry, Plan
from lqcompile.lowering.choose import Candidate
from lqcompile.records.apply import apply_records
from lqcompile.records.key import key_here
from lqcompile.records.tuned import read_tuned
from lqcompile.select import select_kernels
from lqcompile.target import find, with_samples
from lqcompile.trials import is_equal
from lqcompile.tuning import tune as tuning
from lqcompile.tuning.budget import Budget
from lqcompile.tuning.processes import OneProcess, ThisMachine
from lqcompile.tuning.task import make_tasks
from lqcompile.tuning.work import WRONG, compile_candidates, read_compiled

TARGET = find("cuda-h200")

CLOCK_NS = 1000
"""Of a thread block."""


def compile_wrong(source: str, architecture: str = "") -> Any:
    """Emulated kernels in which warpgroups count one too many."""
    return emulated_gpu.compile_emulated(source.replace("lq_settle((&", "++*((&"), architecture)


def plan_of(seed: int) -> Plan:
    """One layer of 4x5 pixels on real bases, which three families compute."""
    rng = np.random.default_rng(seed)
    builder = PlanBuilder(rng, (64, 4, 5))
    codes = builder.quantized_input(random_quantizer(rng, 1))
    return builder.finish(*builder.contract(codes, random_low_bit(rng, (32, 64, 1, 1), 1), Geometry()))


def blocks_of(pixels: int, candidate: dict[str, Any], channels: int) -> int:
    """Thread blocks of a launch."""
    rows, blocks = candidate["tile"]
    rows *= 1 if candidate["kernel"] in ("b1mma", "i8mma", "b1wgmma") else 4
    return -(-pixels // rows) * (channels // 32 // blocks)


def test_build_measures_each_family_for_a_batch(gpu: emulated_gpu.Driver, tmp_path: Path, call: Callable) -> None:
    model = tmp_path / "model.onnx"
    builder = Builder(np.random.default_rng(1), (64, 4, 4)).quantize(1, integer=True).conv(32, kernel=1, bits=1)
    save(builder.build(), model)
    gpu.set(clock=CLOCK_NS)
    options = ["-t", "cuda-h200", "--select", "measure", "--batch", 5, "-o", tmp_path / "model.tar", "--json"]
    code, out, err = call("build", model, *options)
    assert code == 0, err
    report = json.loads(out)
    (layer,) = report["layers"]
    assert report["measured"] == ["cuda-h200"] and layer["reason"].startswith("measured: ")
    assert {entry["kernel"] for entry in layer["measured"]} >= {"popcount", "b1mma"}
    for entry in layer["measured"]:
        assert entry["us"] == pytest.approx(1e-3 * CLOCK_NS * blocks_of(5 * 16, entry, 32), rel=1e-3)
    best = layer["measured"][0]
    assert (layer["kernel"], layer["tile"]) == (best["kernel"], best["tile"])


def test_wrong_candidates_are_refused_and_memory_is_given_back(
    gpu: emulated_gpu.Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "compile_cuda", compile_wrong)
    gc.collect()
    before = gpu.bytes_in_use
    gpu.set(clock=CLOCK_NS)
    (choice,) = select_kernels(plan_of(2), with_samples(TARGET, 3)).values()
    assert choice.family in ("b1mma", "popcount")
    assert re.search(r"; wrong integers from b1wgmma: report this as a bug$", choice.reason)
    gc.collect()
    assert gpu.bytes_in_use == before


class Workshop(tuning.Workshop):
    """Compiles in this process, where kernels are emulated."""

    def compile(self, name: str, candidates: tuple[Candidate, ...]) -> Future[str]:
        future: Future[str] = Future()
        path = str(self.folder / f"{name}_{next(self._numbers)}")
        future.set_result(compile_candidates(str(self.folder / name), candidates, path))
        return future


class Here:
    """Runs work in this process."""

    def submit(self, work: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work.run(ThisMachine()))
        except LQCompileError as error:
            future.set_exception(error)
        return future

    def names(self) -> list[str]:
        return ["here"]

    def close(self) -> None:
        pass


def test_tuning_finds_the_fastest_that_is_right(
    gpu: emulated_gpu.Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "compile_cuda", compile_wrong)
    monkeypatch.setattr(tuning, "Workshop", Workshop)
    gpu.set(clock=CLOCK_NS)
    plan, target = plan_of(3), with_samples(TARGET, 40)
    key = key_here(target)
    assert (key.cpu, key.features, key.samples) == ("Emulated GPU (9.0)", (), 40)
    result = tuning.tune(plan, target, key, Budget(trials=4), tmp_path, watch=lambda _status: None, make_executor=Here)
    ((entry,), failed) = result.tuned, result.failures
    assert failed == {WRONG: entry.failed} and entry.failed > 0 and entry.trials == 4
    assert entry.best.kernel != "b1wgmma" and entry.best.us <= entry.untuned.us
    assert read_tuned(tmp_path) == [entry]
    assert list(apply_records(plan, target, [entry]).choices) == list(result.layers[0])
    why = "measured with 40 samples at a time, not 32"
    assert apply_records(plan, TARGET, [entry]).refused == {why: list(result.layers[0])}
    gpu.set(minor=1)
    why = "measured on Emulated GPU (9.0), not Emulated GPU (9.1)"
    assert list(apply_records(plan, target, [entry]).refused) == [why]
    monkeypatch.setattr(driver, "LIBRARY", "libcuda.so.0")
    why = "measured on Emulated GPU (9.0), not a machine without a usable GPU"
    assert list(apply_records(plan, target, [entry]).refused) == [why]
    assert list(apply_records(plan, target, [entry], "Emulated GPU (9.0)").choices) == list(result.layers[0])


@pytest.mark.parametrize("seed", [4])
def test_tiles_of_all_kinds_equal_the_reference(gpu: emulated_gpu.Driver, tmp_path: Path, seed: int) -> None:
    """Some of each design space, in one library: chunks, stages, splits, warps."""
    rng = np.random.default_rng(seed)
    builder = PlanBuilder(rng, (96, 4, 5))
    codes = builder.quantized_input(random_quantizer(rng, 1, integer=True))
    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    plan = builder.finish(*builder.contract(codes, random_low_bit(rng, (64, 96, 3, 3), 1, integer=True), around))
    (task,) = make_tasks(plan, TARGET, key_here(TARGET), lambda _doing, _share: None)
    task.save(tmp_path / "task")
    chosen = []
    for family, space in task.spaces.items():
        for index in rng.choice(len(space.tiles), 2, replace=False):
            knobs = {name: int(rng.choice(values)) for name, values in space.knobs.items()}
            chosen.append(Candidate(family=family, tile=space.choose(int(index), knobs)))
    compiled = read_compiled(compile_candidates(str(tmp_path / "task"), tuple(chosen), str(tmp_path / "made")))
    kernels = compiled.job.load()
    for candidate, check in zip(chosen, compiled.checks, strict=True):
        assert check is not None and task.expected is not None
        assert is_equal(kernels, check, task.expected), candidate


def test_a_candidate_is_compiled_to_machine_code(tmp_path: Path) -> None:
    (task,) = make_tasks(plan_of(5), TARGET, replace(key_here(TARGET), cpu="GPU"), lambda _doing, _share: None)
    task.save(tmp_path / "task")
    job = read_compiled(compile_candidates(str(tmp_path / "task"), task.guesses[:1], str(tmp_path / "made"))).job
    assert isinstance(job, GpuJob) and job.library.startswith(b"\x7fELF")
    assert (len(job.steps), job.single, job.samples) == (2, {1}, TARGET.samples)


def test_after_an_error_of_the_driver_the_process_is_replaced() -> None:
    class Worker:
        killed = 0

        def send(self, *_arguments: Any, **_options: Any) -> None:
            pass

        def recv(self) -> Any:
            return DeviceError("CUDA (cuStreamSynchronize): found error 700")

        def kill(self) -> None:
            self.killed += 1

    executor, worker = OneProcess(), Worker()
    executor._worker = worker
    with pytest.raises(DeviceError, match="found error 700"):
        executor.submit(None).result()  # type: ignore[arg-type]
    assert worker.killed == 1


def test_without_a_gpu_nothing_is_measured(tmp_path: Path, call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LIBRARY", "libcuda.so.0")
    model = tmp_path / "model.onnx"
    save(Builder(np.random.default_rng(0), (8, 4, 4)).quantize(1).conv(8, bits=1).build(), model)
    line = (
        "lqcompile: error: CUDA: found no NVIDIA driver (libcuda.so.0), expected one for CUDA 13 or later; install it, "
        "or run on a machine with a GPU"
    )
    for command in (["build", "--select", "measure"], ["tune"]):
        code, _, err = call(*command, model, "-t", "cuda-h200")
        assert code == 1 and line in " ".join(err.split())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx"]


def test_what_cannot_be_measured_is_one_line(gpu: emulated_gpu.Driver, tmp_path: Path, call: Callable) -> None:
    model = tmp_path / "model.onnx"
    save(Builder(np.random.default_rng(0), (8, 4, 4)).quantize(1).conv(8, bits=1).build(), model)
    for options, expected in (
        (
            ["-t", "cuda-a100"],
            "target 'cuda-a100': found this machine to lack a GPU for sm_80 (it has Emulated GPU (9.0)), expected one",
        ),
        (
            ["-t", "x86", "--batch", 8],
            "target 'x86': found a batch of 8, expected none, for it runs one sample after another; leave --batch out",
        ),
        (["-t", "cuda", "--batch", 0], "target 'cuda': found a batch of 0, expected at least one sample"),
    ):
        code, _, err = call("build", model, "--select", "measure", *options)
        assert code == 1 and expected in " ".join(err.split())
