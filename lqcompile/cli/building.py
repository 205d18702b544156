"""``lqcompile build``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lqcompile.cli.console import JsonOption, in_kilobytes, print_json, print_table, print_text, progress_bar
from lqcompile.cli.reaching import DEFAULT_TIMEOUT, KeyOption, RpcOption, TimeoutOption, TrackerOption, board
from lqcompile.wording import counted

if TYPE_CHECKING:
    from lqcompile.rpc.device import Device
    from lqcompile.rpc.kernels import Board

EXAMPLE = "Example: lqcompile build model.onnx --target x86 -o model.tar"

TargetOption = Annotated[
    str, typer.Option("--target", "-t", help="Machine to compile for; 'lqcompile targets' lists them.")
]
DEFAULT_TARGET = "x86"

BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch",
        metavar="N",
        help="Samples that run together, with which kernels for GPUs are measured (default: 32, or 8 on Jetson).",
    ),
]

RecordsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--records", metavar="PATH", help="Tuned kernels to use: a file or folder of 'lqcompile tune'. Repeat."
    ),
]
CpuOption = Annotated[
    str | None,
    typer.Option(
        "--cpu",
        metavar="MODEL",
        help="Processor that the artifact is for, as 'lqcompile records show' names it (default: this machine's).",
    ),
]


def build(
    model: Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)],
    *,
    target: TargetOption = DEFAULT_TARGET,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Artifact to write (default: MODEL with .tar).")
    ] = None,
    select: Annotated[
        Literal["table", "measure"],
        typer.Option(
            help="How kernels are chosen: by the cost table of the target, or by timing all candidates: on this "
            "machine, or with --rpc or --tracker on a board."
        ),
    ] = "table",
    records: RecordsOption = None,
    cpu_model: CpuOption = None,
    batch: BatchOption = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail where a low-bit layer falls back to float.")] = False,
    dump_ir: Annotated[
        Path | None, typer.Option("--dump-ir", metavar="DIR", help="Write the program after each phase.")
    ] = None,
    rpc: RpcOption = None,
    tracker: TrackerOption = None,
    key: KeyOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json_output: JsonOption = False,
) -> None:
    """Compile an ONNX model into one artifact file."""
    from lqcompile.build import build as build_model
    from lqcompile.errors import InputError

    path = artifact_path(model, output)
    if (rpc is not None or tracker is not None) and select != "measure":
        raise InputError("build: found a board without --select measure, expected both; a build needs no board else")
    with progress_bar(f"Building {model.name}") as move, board(rpc, tracker, key, timeout, move) as device:
        measure_on = {} if device is None else {"measure_on": _board_to_measure_on(device)}
        report = build_model(
            model,
            target=target,
            output=path,
            select=select,
            records=records or [],
            cpu_model=cpu_model,
            batch=batch,
            strict=strict,
            dump_ir=dump_ir,
            progress=move,
            **measure_on,
        ).to_json()
    if json_output:
        print_json(report)
    else:
        show_build(report, "this machine" if device is None else str(device))


def artifact_path(model: Path, output: Path | None) -> Path:
    """Where the artifact of a model goes: where --output says, or beside the model.

    Raises:
        BuildError: that is the model itself.
    """
    from lqcompile.errors import BuildError

    path = output or model.with_suffix(".tar")
    if path.resolve() == model.resolve():
        raise BuildError(f"output '{path}': found the model itself, expected another name; choose one with --output")
    return path


def _board_to_measure_on(device: Device) -> Board:
    from lqcompile.rpc.bench import refuse_emulator
    from lqcompile.rpc.kernels import Board

    refuse_emulator(device)
    return Board(device)


def show_build(report: dict[str, Any], measured_on: str = "this machine") -> None:
    """Print a build report: which kernel each layer got and why, and the sizes."""
    print_layers(f"{report['artifact']} for {report['target']}", report["layers"])
    low_bit = [layer for layer in report["layers"] if layer["weight_bits"] < 32]
    inexact = [layer["name"] for layer in low_bit if layer["kernel"] in ("float", "packed")]
    if inexact:
        print_text(
            f"Not exact: {', '.join(inexact)} run in float32 (--strict refuses that); quantize the input of a layer to "
            "make it exact"
        )
    table = [name for name in report["variants"] if name not in report["measured"]]
    if report["measured"] and table:
        print_text(
            f"Measured on {measured_on}: {', '.join(report['measured'])}. By the cost table, because {measured_on} "
            f"cannot run them: {', '.join(table)}"
        )
    show_records(report["records"])
    size = report["bytes"]
    print_text(
        f"Built in {report['seconds']:.1f} s: model {in_kilobytes(size['onnx'])}, packed weights "
        f"{in_kilobytes(size['packed_weights'])}, artifact {in_kilobytes(size['artifact'])}"
    )


def show_records(records: dict[str, dict[str, Any]]) -> None:
    """Print which layers got the kernel of a tuning record, and which records were left out and why."""
    for variant, found in records.items():
        if found["used"]:
            layers = counted(len(found["used"]), "layer")
            print_text(f"Tuning records for {variant}: used by {layers} ({', '.join(found['used'])})")
        for reason, names in found["refused"].items():
            print_text(f"Tuning records for {variant} left out: {reason} ({', '.join(names)})")


def print_layers(title: str, layers: Sequence[dict[str, Any]]) -> None:
    """Print which kernel each layer got and why."""
    rows = [
        (
            layer["name"],
            layer["op"],
            bits(layer["weight_bits"]),
            bits(layer["act_bits"]),
            layer["kernel"],
            layer["reason"],
        )
        for layer in layers
    ]
    print_table(title, ("layer", "operator", "weight bits", "activation bits", "kernel", "why"), rows)
    timed = [layer for layer in layers if layer.get("measured")]
    if timed:
        print_table(
            "Candidates in microseconds: kernel, pixels x vectors of its tile where it is not the usual one",
            ("layer", "fastest first"),
            [(layer["name"], ", ".join(_candidate(entry) for entry in layer["measured"])) for layer in timed],
        )


def _candidate(entry: dict[str, Any]) -> str:
    tile = "x".join(str(size) for size in entry["tile"] or ())
    return f"{' '.join(filter(None, (entry['kernel'], tile)))}: {entry['us']:.3g}"


def bits(number: int) -> str:
    """Bits of a code for people; 32 is float."""
    return "float" if number == 32 else str(number)
