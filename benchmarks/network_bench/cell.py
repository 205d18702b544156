"""One network at one bit width: everybody's time in one interleaved run, and our time layer by layer."""

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
from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import make_plan
from lqcompile.graph.statistics import layer_statistics
from lqcompile.openvino_peer import OpenVinoModel
from lqcompile.peers import FP32
from lqcompile.runtime import CompiledModel, load
from lqcompile.target import expand, find
from lqcompile.timing import measure
from network_bench.bounds import bound_us, measure_machine
from network_bench.memory import peak_mb
from network_bench.models import model_file

TARGETS = {"avx2": "x86-avx2", "avx512": "x86-avx512", "vnni": "x86-avx512-vnni", "amx": "x86-amx"}

LAYER_SHARE = 0.25
"""Part of the time that goes to the table of layers."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What to measure.

    Args:
        network: one of `lqcompile.models.names`.
        weight_bits: 1 to 4.
        act_bits: 1 to 4, or 32 for float activations.
        threads: of every side.
        isa: instruction set that both sides are held to, None for the best.
        image_size: rows and columns, None for those of the paper.
        peers: of `lqcompile.peers.ALL_PEERS`.
        seconds: about as long is timed.
        memory: also measure peak memory.
        select: how kernels are chosen, as ``lqcompile build --select`` takes it.
    """

    network: str
    weight_bits: int
    act_bits: int
    threads: int
    isa: str | None
    image_size: int | None
    peers: Sequence[str]
    seconds: float
    memory: bool
    select: str


def run_cell(cell: Cell, cache: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Build and time; the keys of the result are stable."""
    name = f"{cell.network}_w{cell.weight_bits}a{cell.act_bits}"
    folder = cache / (name if cell.image_size is None else f"{name}_{cell.image_size}")
    tell(f"{name}: making the model")
    model = model_file(cell.network, cell.weight_bits, cell.act_bits, cell.image_size, folder)
    target = TARGETS[cell.isa] if cell.isa else best_target()
    tell(f"{name}: building for {target}")
    report = build(model, target=target, output=folder / "model.tar", select=cell.select)
    compiled = load(folder / "model.tar", threads=cell.threads)
    port = compiled.inputs[0]
    images = np.random.default_rng(0).normal(size=(16, *port.shape)).astype(np.float32)
    tell(f"{name}: preparing {', '.join(cell.peers)}")
    peers = open_peers(
        cell.peers,
        model=model,
        float_model=None,
        folder=folder,
        calibration={port.name: images},
        threads=cell.threads,
    )
    feeds = {port.name: images[:1]}
    runners = {"lqcompile": functools.partial(compiled.run, feeds)}
    runners |= {peer.name: functools.partial(peer.run, feeds) for peer in peers}
    rounds = _rounds(list(runners.values()), cell.seconds * (1 - LAYER_SHARE))
    tell(f"{name}: timing, {rounds} rounds")
    times = {key: timing.median_ms for key, timing in measure(runners, rounds).items()}
    result: dict[str, Any] = {
        "network": cell.network,
        "weight_bits": cell.weight_bits,
        "act_bits": cell.act_bits,
        "threads": cell.threads,
        "isa": cell.isa,
        "target": target,
        "cpu": cpu.cpu_name(),
        "weights": "random, calibrated on random images",
        "rounds": rounds,
        "build_s": round(report.seconds, 1),
        "artifact_bytes": report.artifact_bytes,
        "median_ms": times,
        "ratio": {key: value / times["lqcompile"] for key, value in times.items() if key != "lqcompile"},
        "openvino_precisions": {
            peer.name: peer.call.precisions() for peer in peers if isinstance(peer.call, OpenVinoModel)
        },
        "layers": layer_times(compiled, feeds, model, target, cell),
    }
    if cell.memory and FP32 in cell.peers:
        result["peak_mb"] = {
            "lqcompile": peak_mb("lqcompile", folder / "model.tar"),
            FP32: peak_mb("onnxruntime", folder / "float_twin.onnx"),
        }
    return result


def best_target() -> str:
    """The most demanding variant of x86 that this CPU runs."""
    features = cpu.cpu_features()
    fitting = [target for target in expand(find("x86")) if cpu.normalise(target.features, "x86_64") <= features]
    return fitting[-1].name


def layer_times(
    compiled: CompiledModel, feeds: dict[str, Any], model: Path, target: str, cell: Cell
) -> list[dict[str, Any]]:
    """Best time of every region, each on what the one before left behind, beside the least that it could take.

    The best of many, for both: a region is short enough to fall between the turns of other programs, a run is not.
    """
    machine = measure_machine()
    facts = {layer.name: layer for layer in layer_statistics(make_plan(load_checked(model)))}
    entries = {entry["name"]: entry for entry in compiled.variant["layers"]}
    compiled.run(feeds)
    runners = compiled.layer_runners(feeds)
    rounds = _rounds(list(runners.values()), cell.seconds * LAYER_SHARE)
    readings: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            start = time.perf_counter()
            run()
            readings[name].append(time.perf_counter() - start)
    table = []
    for name, seconds in readings.items():
        row: dict[str, Any] = {"name": name, "us": 1e6 * min(seconds)}
        if name in entries:
            entry, fact = entries[name], facts[name]
            bound = bound_us(entry, fact.macs, fact.packed_parameter_bytes, target, machine, cell.threads)
            row |= {
                "op": entry["op"],
                "kernel": entry["kernel"],
                "reason": entry["reason"],
                "weight_bits": entry["weight_bits"],
                "act_bits": entry["act_bits"],
                "macs": fact.macs,
                "gmac_per_s": fact.macs / row["us"] / 1e3,
                "bound_us": bound,
                "fraction_of_bound": bound / row["us"],
            }
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
