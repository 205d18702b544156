"""What tuning gains: layer by layer, for whole networks, and with how many trials.

    python benchmarks/tuning.py [--network resnet18] [--bits 2,2 1,2] [--budget 10m] [--isa avx2] [--json FILE]

Each network is built as the cost table chooses, tuned from nothing, and built again. Layers: both kernels in one
interleaved run of ``lqcompile tune``; a layer whose cost-table kernel already runs within 10 % of its bound does not
count in the geometric mean. Networks: both artifacts and no other work, interleaved, medians. "Half of the gain" is the
part of all trials after which half of the final gain was there: a winner of the finals counts from the trial on that
measured it. Weights are random, calibrated on random images.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from network_bench.cell import TARGETS, best_target
from network_bench.models import model_file
from rich.console import Console
from rich.table import Table

from lqcompile import cpu
from lqcompile.build import build
from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import make_plan
from lqcompile.profiling.here import Here
from lqcompile.profiling.measure import measure as measure_passes
from lqcompile.profiling.probes import probe_library
from lqcompile.profiling.profile import make_profile
from lqcompile.records.instance import in_words
from lqcompile.records.key import key_here
from lqcompile.runtime import CompiledModel, load, set_threads
from lqcompile.target import find
from lqcompile.timing import Stopwatch, spread
from lqcompile.tuning.budget import parse_budget
from lqcompile.tuning.curve import gain_after, trials_to
from lqcompile.tuning.guard import guard
from lqcompile.tuning.outcome import Status
from lqcompile.tuning.tune import tune

AT_BOUND = 0.9
"""Part of its bound from which on a layer has nothing to gain."""

ROUNDS = 41

PROFILE_S = 5.0


def bounds(compiled: CompiledModel, artifact: Path, feeds: dict[str, Any], target: str) -> dict[str, float]:
    """The part of its bound that each layer reaches, by name, where the target states one."""
    place = Here(compiled, feeds, emulated=False)
    found = measure_passes(
        place, probe_library(find(target)), threads=1, limit_s=PROFILE_S, progress=lambda _text, _part: None
    )
    made = make_profile(
        compiled.manifest, compiled.variant, found, file=artifact.name, artifact_bytes=artifact.stat().st_size
    )
    return {
        layer["name"]: layer["work"]["bound"]["us"] / layer["time"]["least_us"]
        for layer in made["layers"]
        if layer["work"] is not None and layer["work"]["bound"] is not None and layer["time"]["least_us"] > 0
    }


def run(network: str, bits: tuple[int, int], target: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Everything about one network."""
    model = model_file(network, *bits, options.image_size, folder / f"{network}_w{bits[0]}a{bits[1]}")
    plain, tuned, work = (model.with_name(name) for name in ("untuned.tar", "tuned.tar", "work"))
    machine = find(target)

    def watch(status: Status) -> None:
        sys.stderr.write(
            f"\r{status.doing}: {status.trials} trials, {status.failed} failed, gain {status.gain or 1:.2f}  "
        )

    result = tune(
        make_plan(load_checked(model)), machine, key_here(machine), parse_budget(options.budget), work, watch=watch
    )
    sys.stderr.write("\n")
    # The table shows what the finals of single layers found, kept by the network as a whole or not.
    verdict = guard(result, model, machine, work)[1]
    # Shipped records hold for no processor of this name: this is what the cost table chooses.
    build(model, target=target, output=plain, cpu_model="none")
    build(model, target=target, output=tuned, records=[work])
    set_threads(1)
    models = {"untuned": load(plain), "tuned": load(tuned)}
    port = models["untuned"].inputs[0]
    feeds = {port.name: np.random.default_rng(0).normal(size=(1, *port.shape)).astype(np.float32)}
    for name, array in models["untuned"].run(feeds).items():
        assert np.array_equal(models["tuned"].run(feeds)[name], array), name
    stopwatch = Stopwatch({name: functools.partial(compiled.run, feeds) for name, compiled in models.items()})
    rounds = [stopwatch.round() for _ in range(ROUNDS)]
    ratio = spread([entry["untuned"] / entry["tuned"] for entry in rounds])
    reached = bounds(models["untuned"], plain, feeds, target)
    rows = [
        {
            "layers": list(names),
            "contraction": in_words(entry.instance),
            "untuned": entry.untuned.kernel,
            "untuned_us": entry.untuned.us,
            "tuned": " ".join([entry.best.kernel, *(f"{key}={value}" for key, value in entry.best.tile.items())]),
            "tuned_us": entry.best.us,
            "gain": entry.gain,
            "bound": max((reached[name] for name in names if name in reached), default=None),
            "trials": entry.trials,
        }
        for names, entry in zip(result.layers, result.tuned, strict=True)
    ]
    improvable = [row["gain"] for row in rows for _ in row["layers"] if (row["bound"] or 0.0) < AT_BOUND]
    return {
        "network": network,
        "bits": list(bits),
        "target": target,
        "cpu": f"{cpu.cpu_name()} ({cpu.cpu_model()})",
        "layers": rows,
        "geometric_mean": math.exp(statistics.mean(map(math.log, improvable))) if improvable else None,
        "network_ms": {name: 1e3 * statistics.median(entry[name] for entry in rounds) for name in models},
        "network_gain": ratio.median_ms / 1e3,
        "network_uncertainty": ratio.uncertainty,
        "records_dropped": verdict is not None and not verdict.kept,
        "half_of_the_gain": trials_to(result.curve, 0.5),
        "gain_after_a_tenth": gain_after(result.curve, 0.1),
        "curve": [list(point) for point in result.curve],
        "trials": result.trials,
        "failures": result.failures,
        "seconds": result.seconds,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """Print one network."""
    bits = "W{}A{}".format(*result["bits"])
    table = Table(
        "layers",
        "contraction",
        "untuned",
        "us",
        "tuned",
        "us",
        "gain",
        "of the bound, untuned",
        "trials",
        title=f"{result['network']} {bits}, {result['target']}, one thread; {result['cpu']}",
    )
    for row in result["layers"]:
        reached = "" if row["bound"] is None else f"{row['bound']:.0%}"
        times = (
            row["untuned"],
            f"{row['untuned_us']:.1f}",
            row["tuned"],
            f"{row['tuned_us']:.1f}",
            f"{row['gain']:.2f}",
        )
        table.add_row(", ".join(row["layers"]), row["contraction"], *times, reached, str(row["trials"]))
    console.print(table)
    mean, half, tenth = (result[name] for name in ("geometric_mean", "half_of_the_gain", "gain_after_a_tenth"))
    console.print(
        f"Geometric mean over layers below {AT_BOUND:.0%} of their bound: {'none' if mean is None else f'{mean:.3f}'}. "
        f"Network: {result['network_ms']['untuned']:.3f} -> {result['network_ms']['tuned']:.3f} ms, "
        f"{result['network_gain']:.3f} x (+- {result['network_uncertainty']:.1%}). {result['trials']} trials in "
        f"{result['seconds']:.0f} s; half of the gain after {'-' if half is None else f'{half:.0%}'} of them, "
        f"{'-' if tenth is None else f'{tenth:.0%}'} of it after a tenth."
    )
    if result["records_dropped"]:
        console.print("The network was no faster with the records: they were dropped.")
    for failure, count in result["failures"].items():
        console.print(f"{count} trials failed: {failure}", markup=False)


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", default=["resnet18"])
    parser.add_argument("--bits", nargs="+", default=["2,2"], help="weight bits, activation bits")
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--isa", choices=list(TARGETS), help="instruction set (default: the best)")
    parser.add_argument("--image-size", type=int, help="rows and columns (default: those of the paper)")
    parser.add_argument("--cache", type=Path, help="folder for models and records; empty ones are tuned from nothing")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    target = TARGETS[options.isa] if options.isa else best_target()
    console, results = Console(), []
    with tempfile.TemporaryDirectory() as temporary:
        for network in options.network:
            for text in options.bits:
                weights, acts = map(int, text.split(","))
                results.append(run(network, (weights, acts), target, options, options.cache or Path(temporary)))
                show(results[-1], console)
                if options.json:
                    options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
