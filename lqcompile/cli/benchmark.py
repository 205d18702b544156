"""``lqcompile bench``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from lqcompile.cli.building import DEFAULT_TARGET, TargetOption
from lqcompile.cli.console import JsonOption, print_json, print_table, print_text, progress_bar
from lqcompile.cli.opening import ArtifactOption, SamplesOption, SeedOption, compiled_model, samples_for

EXAMPLE = "Example: lqcompile bench model.onnx --against onnxruntime-fp32,onnxruntime-int8"


def bench(
    model: Annotated[Path, typer.Argument(help="ONNX file, or an artifact.", show_default=False)],
    *,
    artifact: ArtifactOption = None,
    target: TargetOption = DEFAULT_TARGET,
    against: Annotated[
        str, typer.Option(help="Comma-separated peers: onnxruntime-fp32, onnxruntime-int8, or none.")
    ] = "onnxruntime-fp32,onnxruntime-int8",
    float_model: Annotated[
        Path | None, typer.Option("--float-model", help="Float twin for the peers (default: derived from MODEL).")
    ] = None,
    samples: SamplesOption = None,
    seed: SeedOption = 0,
    batch: Annotated[int, typer.Option(min=1, help="Samples in a call.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every side.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 50,
    json_output: JsonOption = False,
) -> None:
    """Time a model against ONNX Runtime, interleaved in one run."""
    from lqcompile import bench as timing
    from lqcompile.artifact import is_artifact
    from lqcompile.errors import InputError
    from lqcompile.peers import parse_peers

    names = parse_peers(against)
    if names and float_model is None and is_artifact(model):
        raise InputError(
            f"bench '{model}': found an artifact alone, expected an ONNX file to make the peers from; "
            "give the ONNX file with --artifact, or --float-model, or --against none"
        )
    with (
        progress_bar(f"Timing {model.name}") as move,
        tempfile.TemporaryDirectory(prefix="lqcompile-") as folder,
        compiled_model(model, artifact, target, threads, move) as compiled,
    ):
        arrays, _ = samples_for(compiled.inputs[0], samples, max(batch, 64), seed)
        peers = timing.open_peers(
            names, model=model, float_model=float_model, folder=Path(folder), calibration=arrays, threads=threads
        )
        feeds = {name: array[:batch] for name, array in arrays.items()}
        report = timing.bench(compiled, peers, feeds, threads=threads, repeats=repeats, progress=move).to_json()
    report["variant"] = compiled.variant["name"]
    if json_output:
        print_json(report)
    else:
        show_bench(report)


def show_bench(report: dict[str, Any]) -> None:
    """Print times and ratios."""
    rows = [("lqcompile", f"{report['median_ms']:.3f}", f"{report['p90_ms']:.3f}", "1.00")]
    rows += [
        (name, f"{peer['median_ms']:.3f}", f"{peer['p90_ms']:.3f}", f"{peer['ratio']:.2f}")
        for name, peer in report["against"].items()
    ]
    print_table(
        f"Time of a call with {report['batch']} samples, threads: {report['threads']}, {report['cpu']}",
        ("", "median ms", "90 % within ms", "times as long"),
        rows,
    )
    print_text(f"Medians of {report['repeats']} interleaved rounds; code for {report['variant']}.")
