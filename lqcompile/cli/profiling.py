"""``lqcompile profile``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lqcompile.cli.console import JsonOption, print_json, print_table, print_text, progress_bar
from lqcompile.cli.measuring import (
    DEFAULT_LIMIT_S,
    AlternativesOption,
    BatchOption,
    EmulatedOption,
    InputOption,
    LimitOption,
    Request,
    ThreadsOption,
    profile_artifact,
)
from lqcompile.cli.opening import SeedOption
from lqcompile.cli.reaching import DEFAULT_TIMEOUT, KeyOption, RpcOption, TimeoutOption, TrackerOption, board
from lqcompile.conditions import state_in_words
from lqcompile.reporting.words import (
    bits,
    cache_size,
    duration,
    on_gpu,
    others,
    percent,
    rate,
    scaled,
    shape,
    size,
    workers,
)
from lqcompile.wording import counted

EXAMPLE = "Example: lqcompile profile model.tar --threads 1"

_TIMES = ("layer", "kernel", "median", "90 % within", "share", "MAC", "bit-op/s", "of bound")
_BYTES = ("weights", "in", "out", "fits into")


def profile(
    artifact: Annotated[Path, typer.Argument(help="Artifact that 'lqcompile build' wrote.", show_default=False)],
    *,
    alternatives: AlternativesOption = False,
    model: Annotated[
        Path | None, typer.Option("--model", help="ONNX file of the artifact, for --alternatives.")
    ] = None,
    inputs: InputOption = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 1,
    batch: BatchOption = None,
    limit: LimitOption = DEFAULT_LIMIT_S,
    emulated: EmulatedOption = False,
    rpc: RpcOption = None,
    tracker: TrackerOption = None,
    key: KeyOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json_output: JsonOption = False,
) -> None:
    """Show where the time of an artifact goes, layer by layer, and how close each layer is to its bound."""
    from lqcompile.errors import InputError

    if alternatives != (model is not None):
        raise InputError("profile: found --alternatives or --model alone, expected both; candidates are built from it")
    request = Request(
        artifact=artifact,
        model=model,
        inputs=inputs,
        seed=seed,
        threads=threads,
        limit_s=limit,
        emulated=emulated,
        batch=batch,
    )
    with progress_bar(f"Profiling {artifact.name}") as move, board(rpc, tracker, key, timeout, move) as device:
        report = profile_artifact(request, device, move)
    if json_output:
        print_json(report)
    else:
        show_profile(report)


def show_profile(report: dict[str, Any]) -> None:
    """Print times with what they are made of, the choice of kernels, and what the figures rest on."""
    machine, whole = report["machine"], report["whole"]
    some = report["totals"]["fraction_of_bound"] is not None
    rows = [_row(layer, "no peak known" if some else percent(None)) for layer in report["layers"]]
    if not on_gpu(report):
        rows.append(_sum_row("a call into the code", report["call_us"], whole["median_ms"]))
    rows.append(_sum_row("interruptions", report["interruptions_us"], whole["median_ms"]))
    rows.append(_sum_row("unaccounted for", report["unaccounted_us"], whole["median_ms"]))
    rows.append(_sum_row("the network", 1e3 * whole["median_ms"], whole["median_ms"]))
    place = f"{report['artifact']['file']} for {report['artifact']['variant']} on {machine['name']}"
    print_table(f"{place}, {machine['cpu']}, {workers(report)}", (*_TIMES, *_BYTES), rows)
    works = [layer for layer in report["layers"] if layer["work"]]
    print_table(
        "Why these kernels",
        ("layer", "shape", "bits", "kernel", "why", "others, times as long"),
        [
            (
                layer["name"],
                shape(layer["work"]),
                bits(layer["work"]),
                layer["work"]["kernel"],
                layer["work"]["reason"],
                others(layer["work"]),
            )
            for layer in works
        ],
    )
    _show_totals(report)


def _show_totals(report: dict[str, Any]) -> None:
    machine, totals, whole, sizes = report["machine"], report["totals"], report["whole"], report["size"]
    if machine["emulator"] is not None:
        print_text(f"UNDER EMULATION ({machine['emulator']}): these times mean nothing.")
    print_text(
        f"In all {scaled(totals['macs'], 'MAC')}, {rate(totals['macs_per_s'], 'MAC')}, "
        f"{rate(totals['bit_operations_per_s'], 'bit-op')}. {_bound_in_words(totals)}"
    )
    print_text(
        f"Weights: {size(sizes['packed_bytes'])} in the model, {size(sizes['parameter_bytes'])} as kernels hold them "
        f"with their thresholds ({size(sizes['float32_bytes'])} in float32, {size(sizes['int8_bytes'])} in int8); "
        f"activations: {size(sizes['arena_bytes'])}."
    )
    caches = ", ".join(f"L{cache['level']} {cache_size(cache['bytes'])}" for cache in machine["caches"])
    speeds = ", ".join(f"{level} {value / 1e9:.0f}" for level, value in machine["bytes_per_s"].items())
    clock, read = ("at most", "GB/s at most") if on_gpu(report) else ("measured", "GB/s read")
    print_text(
        f"Machine: {machine['clock_hz'] / 1e9:.2f} GHz {clock}; caches: {caches or 'unknown'}; {read}: {speeds}."
    )
    if on_gpu(report):
        print_text(
            "Times are the GPU's own, of one sample; 'lqcompile bench' counts the start of its graph, and copies."
        )
    end = "" if report["settled"] else "; the time was up before it was certain"
    print_text(
        f"{counted(whole['readings'], 'pass')}; the median is within {percent(whole['uncertainty'])} (95 %){end}."
    )
    before, after = report["conditions"]["before"], report["conditions"]["after"]
    print_text(f"Before: {state_in_words(before)}. After: {state_in_words(after)}.")


def _bound_in_words(totals: dict[str, Any]) -> str:
    if totals["fraction_of_bound"] is None:
        return "The target tells no bound for its inner loops: it stands for unlike cores."
    return (
        f"Layers with a bound take {duration(totals['bounded_us'])}, at best {duration(totals['bound_us'])}: "
        f"{percent(totals['fraction_of_bound'])} of the bound."
    )


def _row(layer: dict[str, Any], without_bound: str) -> tuple[str, ...]:
    work, time = layer["work"], layer["time"]
    return (
        layer["name"],
        work["kernel"] if work else layer["op"],
        duration(time["median_us"]),
        duration(time["p90_us"]),
        percent(layer["share"]),
        scaled(work["macs"], "") if work else "",
        rate(work["bit_operations_per_s"], "") if work and work["bit_operations"] else "",
        (_of_bound(work) if work["bound"] else without_bound) if work else "",
        size(layer["bytes"]["parameters"]) if work else "",
        size(layer["bytes"]["read"]),
        size(layer["bytes"]["written"]),
        layer["footprint_level"] or "",
    )


def _of_bound(work: dict[str, Any]) -> str:
    """The part of the bound, and what bounds a layer where that is not its arithmetic."""
    by = work["bound"]["by"]
    return percent(work["fraction_of_bound"]) + ("" if by == "arithmetic" else f" ({by})")


def _sum_row(name: str, us: float, whole_ms: float) -> tuple[str, ...]:
    return (name, "", duration(us), "", percent(us / 1e3 / whole_ms), *[""] * 7)
