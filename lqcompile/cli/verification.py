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
from lqcompile.cli.reaching import DEFAULT_TIMEOUT, KeyOption, RpcOption, TimeoutOption, TrackerOption, board

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
    rpc: RpcOption = None,
    tracker: TrackerOption = None,
    key: KeyOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json_output: JsonOption = False,
) -> None:
    """Prove that a compiled model equals ONNX Runtime on the ONNX file."""
    from lqcompile.errors import VerificationError
    from lqcompile.verify import verify as verify_model

    with (
        progress_bar(f"Verifying {model.name}") as move,
        board(rpc, tracker, key, timeout, move) as device,
        compiled_model(model, artifact, target, threads, move, device) as compiled,
    ):
        arrays, labels = samples_for(compiled.inputs[0], samples, random, seed)
        report = verify_model(model, compiled, arrays, labels, progress=move).to_json()
    if device is not None:
        report["device"] = str(device)
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
        ("layers compared, each on the reference's input", forced["layers"]),
        ("integer sums that differ", f"{forced['integer_mismatches']:,} of {forced['integers']:,}"),
        ("codes that differ", f"{forced['mismatches']:,} of {forced['codes']:,}"),
        ("codes on a threshold within float32 rounding", f"{forced['near_threshold']:,}"),
        ("float values that differ by more than they may", f"{forced['float_mismatches']:,} of {forced['floats']:,}"),
        ("samples end to end", f"{free['samples']:,}"),
        ("outputs that differ from the layers one by one", f"{free['output_mismatches']:,} of {free['outputs']:,}"),
        ("same class as ONNX Runtime (top-1)", in_percent(free["top1_agreement"])),
        ("largest difference from ONNX Runtime", f"{free['max_abs_diff']:.3g}"),
    ]
    if "accuracy" in report:
        rows += [
            ("accuracy, ONNX Runtime", in_percent(report["accuracy"]["reference"])),
            ("accuracy, compiled", in_percent(report["accuracy"]["compiled"])),
        ]
    print_table(f"Compiled model against ONNX Runtime ({report['reference']})", ("", ""), rows)
    print_text("Equal." if report["passed"] else "NOT equal.")


def failure(report: dict[str, Any]) -> str:
    """What is wrong, found and expected, in one line."""
    forced, free = report["forced"], report["free"]
    counts = {
        "integer sums": forced["integer_mismatches"],
        "codes": forced["mismatches"],
        "float values": forced["float_mismatches"],
        "outputs": free["output_mismatches"],
    }
    layers = [layer["name"] for layer in forced["per_layer"] if layer_failed(layer)]
    where = f" in {', '.join(layers)}" if layers else ""
    found = ", ".join(f"{number} {name}" for name, number in counts.items() if number)
    return (
        f"found {found} that differ{where}, expected none; build it again, and report this with the model if it stays"
    )


def layer_failed(layer: dict[str, Any]) -> bool:
    """Whether something differs in a layer that may not."""
    return bool(layer["mismatches"] or layer["integer_mismatches"] or layer["float_mismatches"])
