"""``lqcompile bench`` on a board."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lqcompile.cli.console import ProgressCallback, in_percent, print_table, print_text
from lqcompile.cli.opening import artifact_file, samples_for
from lqcompile.conditions import state_in_words
from lqcompile.wording import counted

if TYPE_CHECKING:
    from lqcompile.rpc.device import Device

DEFAULT_LIMIT_S = 30.0

PRECISION = 0.01
"""A measurement ends early when all medians are known this well."""

_DRIFT = 0.05
"""A change between the first and the last third of the readings that the reader is told of."""

_CALIBRATION_SAMPLES = 64


@dataclass(frozen=True, kw_only=True)
class Work:
    """What ``bench`` was asked for, as its options say it."""

    model: Path
    artifact: Path | None
    target: str
    against: str | None
    float_model: Path | None
    samples: Path | None
    seed: int
    batch: int
    threads: int
    repeats: int


def check_source(work: Work, peers: Sequence[str]) -> None:
    """Check that there is a network to make peers from.

    Raises:
        InputError: there is an artifact alone.
    """
    from lqcompile.artifact import is_artifact
    from lqcompile.errors import InputError

    if peers and work.float_model is None and is_artifact(work.model):
        raise InputError(
            f"bench '{work.model}': found an artifact alone, expected an ONNX file to make the peers from; "
            "give the ONNX file with --artifact, or --float-model, or --against none"
        )


def bench_there(work: Work, device: Device, limit_s: float, move: ProgressCallback) -> dict[str, Any]:
    """Time an artifact on a board, beside its peers; the report.

    Raises:
        DeviceError: the board is an emulator, or it fails.
        LQCompileError: a file does not serve; the message says what to do.
    """
    from lqcompile.artifact import is_artifact, read_artifact
    from lqcompile.peers import parse_peers
    from lqcompile.rpc import bench as timing
    from lqcompile.rpc.model import variant_for
    from lqcompile.runtime import Port

    timing.refuse_emulator(device)
    onnx_file = None if is_artifact(work.model) else work.model
    if work.against is not None:
        names = parse_peers(work.against, timing.BOARD_PEERS)
    else:
        names = timing.usual_peers(device) if onnx_file or work.float_model else ()
    with (
        tempfile.TemporaryDirectory(prefix="lqcompile-") as folder,
        artifact_file(work.model, work.artifact, work.target, move, device) as path,
    ):
        manifest = read_artifact(path).manifest
        port = Port.from_manifest(manifest["inputs"][0])
        arrays, _ = samples_for(port, work.samples, max(work.batch, _CALIBRATION_SAMPLES), work.seed)
        peers = timing.make_peers(
            names,
            model=onnx_file,
            float_model=work.float_model,
            variant=variant_for(device, manifest)["name"],
            folder=Path(folder),
            calibration=arrays,
            progress=move,
        )
        report = timing.bench_on_board(
            device,
            path,
            peers,
            {name: array[: work.batch] for name, array in arrays.items()},
            threads=work.threads,
            precision=PRECISION,
            fewest=work.repeats,
            limit_s=limit_s,
            progress=move,
        )
    return report.to_json()


def show_board(report: dict[str, Any], device: str) -> None:
    """Print times, ratios, layers, and the conditions that they were measured under."""
    rows = [_row("lqcompile", report, 1.0)]
    rows += [_row(name, peer, peer["ratio"]) for name, peer in report["against"].items()]
    samples = counted(report["batch"], "sample")
    print_table(
        f"Time of a call with {samples}, threads: {report['threads']}, {device}, {report['cpu']}",
        ("", "median ms", "p10", "p90", "p99", "drift", "times as long"),
        rows,
    )
    total = sum(layer["median_ms"] for layer in report["layers"])
    print_table(
        f"Layers, each alone; code for {report['variant']}",
        ("layer", "kernel", "median ms", "share"),
        [
            (layer["name"], layer["kernel"] or "", f"{layer['median_ms']:.3f}", in_percent(layer["median_ms"] / total))
            for layer in report["layers"]
        ],
    )
    timed = (report, *report["against"].values())
    worst = max(entry["uncertainty"] for entry in timed)
    print_text(
        f"{counted(report['readings'], 'interleaved round')} in {report['seconds']:.1f} s on the board; medians within "
        f"{in_percent(worst)} (95 %)" + ("." if report["settled"] else "; the time was up before they were certain.")
    )
    before, after = report["conditions"]["before"], report["conditions"]["after"]
    print_text(f"Before: {state_in_words(before)}. After: {state_in_words(after)}.")
    if any(abs(entry["drift"] or 0.0) > _DRIFT for entry in timed):
        print_text("The times drift: let the board cool, fix its clock, stop what else runs there (docs/devices.md).")
    if not report["against"]:
        print_text("Nothing beside it: give the ONNX file and --artifact, or --float-model, to compare with.")


def _row(name: str, entry: dict[str, Any], ratio: float) -> tuple[str, ...]:
    drift = "-" if entry["drift"] is None else f"{100 * entry['drift']:.1f} %"
    times = (f"{entry[key]:.3f}" for key in ("median_ms", "p10_ms", "p90_ms", "p99_ms"))
    return (name, *times, drift, f"{ratio:.2f}")
