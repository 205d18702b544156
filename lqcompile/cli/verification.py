"""``lqcompile verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lqcompile.cli.building import DEFAULT_TARGET, TargetOption
from lqcompile.cli.console import JsonOption, in_percent, print_json, print_table, print_text, progress_bar
from lqcompile.cli.opening import (
    ArtifactOption,
    SamplesOption,
    SeedOption,
    ThreadsOption,
    compiled_model,
    samples_for,
)

EXAMPLE = "Example: lqcompile verify model.onnx --artifact model.tar --samples images.npz"


def verify(
    model: Annotated[Path, typer.Argument(help="ONNX file, the reference.", show_default=False)],
    *,
    artifact: ArtifactOption = None,
    target: TargetOption = DEFAULT_TARGET,
    samples: SamplesOption = None,
    random: Annotated[int, typer.Option("--random", metavar="N", min=1, help="Random samples without --samples.")] = 16,
    seed: SeedOption = 0,
    threads: ThreadsOption = None,
    json_output: JsonOption = False,
) -> None:
    """Prove that a compiled model equals ONNX Runtime on the ONNX file."""
    from lqcompile.errors import VerificationError
    from lqcompile.verify import verify as verify_model

    with (
        progress_bar(f"Verifying {model.name}") as move,
        compiled_model(model, artifact, target, threads, move) as compiled,
    ):
        arrays, labels = samples_for(compiled.inputs[0], samples, random, seed)
        report = verify_model(model, compiled, arrays, labels, progress=move).to_json()
    if json_output:
        print_json(report)
    else:
        show_verify(report)
    if not report["passed"]:
        raise VerificationError(f"model '{model}': {failure(report)}")


def show_verify(report: dict[str, Any]) -> None:
    """Print a verification report."""
    forced, free = report["forced"], report["free"]
    rows: list[tuple[str, object]] = [
        ("layers compared", forced["layers"]),
        ("codes compared", f"{forced['codes']:,}"),
        ("codes that differ", forced["mismatches"]),
        ("codes on a threshold within rounding", forced["near_threshold"]),
        ("samples end to end", free["samples"]),
        ("same class (top-1)", in_percent(free["top1_agreement"])),
        ("largest output difference", f"{free['max_abs_diff']:.3g}"),
    ]
    if "accuracy" in report:
        rows += [
            ("accuracy, ONNX Runtime", in_percent(report["accuracy"]["reference"])),
            ("accuracy, compiled", in_percent(report["accuracy"]["compiled"])),
        ]
    print_table("Compiled model against ONNX Runtime", ("", ""), rows)
    print_text("Equal." if report["passed"] else "NOT equal.")


def failure(report: dict[str, Any]) -> str:
    """What is wrong, found and expected, in one line."""
    forced = report["forced"]
    return (
        f"found {forced['mismatches']} of {forced['codes']} codes different in {forced['layers']} layers and a largest "
        f"output difference of {report['free']['max_abs_diff']:.3g}, expected equality with the reference; "
        "please report it with the model"
    )
