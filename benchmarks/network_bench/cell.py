"""A network with some numbers of bits: everybody's time in one interleaved run, and our time layer by layer."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lqcompile import cpu
from lqcompile.bench import open_peers
from lqcompile.build import build
from lqcompile.openvino_peer import OpenVinoModel
from lqcompile.peers import FP32
from lqcompile.profiling.here import Here
from lqcompile.profiling.measure import measure as measure_passes
from lqcompile.profiling.probes import probe_library
from lqcompile.profiling.profile import make_profile
from lqcompile.runtime import CompiledModel, load, set_threads
from lqcompile.target import expand, find
from lqcompile.timing import measure
from network_bench.memory import peak_mb
from network_bench.models import model_file

TARGETS = {"avx2": "x86-avx2", "avx512": "x86-avx512", "vnni": "x86-avx512-vnni", "amx": "x86-amx"}

LAYER_SHARE = 0.25
"""Part of the time that goes to the table of layers."""

CLOCK_STEP_US = 0.01
"""Regions that take less than a call that runs nothing are given this time."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to measure: a network with some numbers of bits and of threads.

    Args:
        network: one of `lqcompile.models.names`.
        bits: (weights, activations): 1 to 4, activations also 32 for float32.
        threads: of every side.
        isa: instruction set that both sides are held to, None for the best.
        image_size: rows and columns, None for those of the paper.
        peers: of `lqcompile.peers.ALL_PEERS`.
        seconds: about as long each number of threads is timed.
        memory: also measure peak memory.
        select: how kernels are chosen, as ``lqcompile build --select`` takes it.
    """

    network: str
    bits: Sequence[tuple[int, int]]
    threads: Sequence[int]
    isa: str | None
    image_size: int | None
    peers: Sequence[str]
    seconds: float
    memory: bool
    select: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Built:
    """A network with some number of bits, ready to run.

    Args:
        bits: of weights and activations.
        folder: of its files.
        model: ONNX file.
        report: of the build.
        compiled: what runs.
    """

    bits: tuple[int, int]
    folder: Path
    model: Path
    report: Any
    compiled: CompiledModel

    @property
    def name(self) -> str:
        """Such as ``lqcompile w2a2``."""
        return f"lqcompile w{self.bits[0]}a{self.bits[1]}"


def run_task(task: Task, cache: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Build and time; one result for each number of threads and of bits, whose keys are stable.

    All numbers of bits and all peers are timed interleaved. The peers run the float twin of the first: what weights
    hold does not change their time.
    """
    target = TARGETS[task.isa] if task.isa else best_target()
    models = make_models(task, cache, tell)
    built = [_build(task, bits, model, target, tell) for bits, model in zip(task.bits, models, strict=True)]
    results = []
    for threads in task.threads:
        results += _timed(task, threads, target, built, tell)
    if task.memory and FP32 in task.peers:
        for result, item in zip(results, built, strict=False):
            result["peak_mb"] = {
                "lqcompile": peak_mb("lqcompile", item.folder / "model.tar"),
                FP32: peak_mb("onnxruntime", built[0].folder / "float_twin.onnx"),
            }
    return results


def make_models(task: Task, cache: Path, tell: Callable[[str], None]) -> list[Path]:
    """The ONNX files of a task, made unless the cache has them."""
    models = []
    for bits in task.bits:
        name = f"{task.network}_w{bits[0]}a{bits[1]}"
        tell(f"{name}: making the model, unless it is there")
        folder = cache / (name if task.image_size is None else f"{name}_{task.image_size}")
        models.append(model_file(task.network, *bits, task.image_size, folder))
    return models


def _build(task: Task, bits: tuple[int, int], model: Path, target: str, tell: Callable[[str], None]) -> Built:
    folder = model.parent
    tell(f"{folder.name}: building for {target}")
    report = build(model, target=target, output=folder / "model.tar", select=task.select)
    return Built(bits=bits, folder=folder, model=model, report=report, compiled=load(folder / "model.tar"))


def _timed(
    task: Task, threads: int, target: str, built: Sequence[Built], tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Results with a number of threads."""
    set_threads(threads)
    name = f"{task.network}, threads: {threads}"
    port = built[0].compiled.inputs[0]
    images = np.random.default_rng(0).normal(size=(16, *port.shape)).astype(np.float32)
    tell(f"{name}: preparing {', '.join(task.peers)}")
    peers = open_peers(
        task.peers,
        model=built[0].model,
        float_model=None,
        folder=built[0].folder,
        calibration={port.name: images},
        threads=threads,
    )
    feeds = {port.name: images[:1]}
    runners = {item.name: functools.partial(item.compiled.run, feeds) for item in built}
    runners |= {peer.name: functools.partial(peer.run, feeds) for peer in peers}
    rounds = _rounds(list(runners.values()), task.seconds * (1 - LAYER_SHARE))
    tell(f"{name}: timing, {rounds} rounds")
    times = {key: timing.median_ms for key, timing in measure(runners, rounds).items()}
    results = []
    for item in built:
        own = times[item.name]
        results.append(
            {
                "network": task.network,
                "weight_bits": item.bits[0],
                "act_bits": item.bits[1],
                "threads": threads,
                "isa": task.isa,
                "target": target,
                "cpu": cpu.cpu_name(),
                "weights": "random, calibrated on random images",
                "rounds": rounds,
                "build_s": round(item.report.seconds, 1),
                "artifact_bytes": item.report.artifact_bytes,
                "median_ms": {"lqcompile": own, **{peer.name: times[peer.name] for peer in peers}},
                "ratio": {peer.name: times[peer.name] / own for peer in peers},
                "openvino_precisions": {
                    peer.name: peer.call.precisions() for peer in peers if isinstance(peer.call, OpenVinoModel)
                },
                "layers": layer_times(item, feeds, target, threads, task.seconds * LAYER_SHARE / len(built)),
            }
        )
    return results


def best_target() -> str:
    """The most demanding variant of x86 that this CPU runs."""
    features = cpu.cpu_features()
    fitting = [target for target in expand(find("x86")) if cpu.normalise(target.features, "x86_64") <= features]
    return fitting[-1].name


def layer_times(item: Built, feeds: dict[str, Any], target: str, threads: int, seconds: float) -> list[dict[str, Any]]:
    """Best time of every region, by passes over the network, beside the least that it could take.

    The best of many, for both: a region is short enough to fall between the turns of other programs, a run is not.
    """
    compiled = item.compiled
    place = Here(compiled, feeds, emulated=False)
    found = measure_passes(
        place, probe_library(find(target)), threads=threads, limit_s=seconds, progress=lambda _text, _part: None
    )
    path = item.report.artifact
    made = make_profile(
        compiled.manifest, compiled.variant, found, file=path.name, artifact_bytes=item.report.artifact_bytes
    )
    table = []
    for layer in made["layers"]:
        us, work = max(layer["time"]["least_us"], CLOCK_STEP_US), layer["work"]
        row: dict[str, Any] = {"name": layer["name"], "us": us}
        if work is not None:
            row |= {"op": layer["op"]}
            row |= {key: work[key] for key in ("kernel", "reason", "weight_bits", "act_bits", "macs")}
            row["gmac_per_s"] = work["macs"] / us / 1e3
            if work["bound"] is not None:
                row |= {"bound_us": work["bound"]["us"], "fraction_of_bound": work["bound"]["us"] / us}
        table.append(row)
    return table


def _rounds(runners: Sequence[Callable[[], object]], seconds: float) -> int:
    """Rounds that take about as long, at least 5 and at most 51."""
    for run in runners:
        run()
    start = time.perf_counter()
    for run in runners:
        run()
    once = time.perf_counter() - start
    return max(5, min(51, math.floor(seconds / max(once, 1e-6))))
