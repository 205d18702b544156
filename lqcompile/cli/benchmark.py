"""``lqcompile bench``: here on CPUs, and where it goes from for boards and GPUs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from lqcompile.cli.board_times import DEFAULT_LIMIT_S, Work, bench_there, check_source, show_board
from lqcompile.cli.building import DEFAULT_TARGET, TargetOption
from lqcompile.cli.console import JsonOption, ProgressCallback, print_json, print_table, print_text, progress_bar
from lqcompile.cli.gpu_times import bench_gpu, is_for_gpu, show_gpu
from lqcompile.cli.opening import (
    ArtifactOption,
    SamplesOption,
    SeedOption,
    compiled_model,
    samples_for,
)
from lqcompile.cli.reaching import DEFAULT_TIMEOUT, KeyOption, RpcOption, TimeoutOption, TrackerOption, board
from lqcompile.wording import counted

EXAMPLE = "Example: lqcompile bench model.onnx --against onnxruntime-fp32 --against openvino-int8"


def bench(
    model: Annotated[Path, typer.Argument(help="ONNX file, or an artifact.", show_default=False)],
    *,
    artifact: ArtifactOption = None,
    target: TargetOption = DEFAULT_TARGET,
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Peers, comma-separated or one each time, or none: onnxruntime-fp32, onnxruntime-int8, openvino-fp32, "
            "openvino-int8, on a board also float-twin (default: ONNX Runtime, and float-twin on a board). On a GPU: "
            "torch-fp16, torch-int8, each also with -compiled, tensorrt-fp16, tensorrt-int8, onnxruntime-cuda-fp16 "
            "(default: all; those that are not there are listed with the reason).",
            show_default=False,
        ),
    ] = None,
    float_model: Annotated[
        Path | None, typer.Option("--float-model", help="Float twin for the peers (default: derived from MODEL).")
    ] = None,
    samples: SamplesOption = None,
    seed: SeedOption = 0,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="Samples in a call (default: 1; on a GPU 1, 32 and 256, one after another)."),
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of every side.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 50,
    rpc: RpcOption = None,
    tracker: TrackerOption = None,
    key: KeyOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0.0,
            help="On a board: longest measurement (default: 30); it ends once the medians are certain.",
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Time a model against ONNX Runtime, OpenVINO or (on a GPU) torch, interleaved in one run; here or on a board."""
    from lqcompile.errors import InputError

    names = None if against is None else ",".join(against)

    with progress_bar(f"Timing {model.name}") as move, board(rpc, tracker, key, timeout, move) as device:
        if device is None and limit is not None:
            raise InputError("bench: found --limit without --rpc or --tracker, expected a board with it")
        work = Work(
            model=model,
            artifact=artifact,
            target=target,
            against=names,
            float_model=float_model,
            samples=samples,
            seed=seed,
            batch=batch or 1,
            threads=threads,
            repeats=repeats,
        )
        on_gpu = device is None and is_for_gpu(work)
        if on_gpu:
            report = bench_gpu(work, None if batch is None else [batch], move)
        elif device is None:
            report = _bench_here(work, move)
        else:
            report = bench_there(work, device, DEFAULT_LIMIT_S if limit is None else limit, move)
    if json_output:
        print_json(report)
    elif on_gpu:
        show_gpu(report)
    elif device is None:
        show_bench(report)
    else:
        show_board(report, str(device))


def _bench_here(work: Work, move: ProgressCallback) -> dict[str, Any]:
    from lqcompile import bench as timing
    from lqcompile.peers import PEERS, parse_peers

    names = PEERS if work.against is None else parse_peers(work.against)
    check_source(work, names)
    with (
        tempfile.TemporaryDirectory(prefix="lqcompile-") as folder,
        compiled_model(work.model, work.artifact, work.target, work.threads, move) as compiled,
    ):
        arrays, _ = samples_for(compiled.inputs[0], work.samples, max(work.batch, 64), work.seed)
        peers = timing.open_peers(
            names,
            model=work.model,
            float_model=work.float_model,
            folder=Path(folder),
            calibration=arrays,
            threads=work.threads,
        )
        feeds = {name: array[: work.batch] for name, array in arrays.items()}
        report = timing.bench(compiled, peers, feeds, threads=work.threads, repeats=work.repeats, progress=move)
        return report.to_json() | {"variant": compiled.variant["name"]}


def show_bench(report: dict[str, Any]) -> None:
    """Print times and ratios."""
    rows = [("lqcompile", f"{report['median_ms']:.3f}", f"{report['p90_ms']:.3f}", "1.00")]
    rows += [
        (name, f"{peer['median_ms']:.3f}", f"{peer['p90_ms']:.3f}", f"{peer['ratio']:.2f}")
        for name, peer in report["against"].items()
    ]
    print_table(
        f"Time of a call with {counted(report['batch'], 'sample')}, threads: {report['threads']}, {report['cpu']}",
        ("", "median ms", "90 % within ms", "times as long"),
        rows,
    )
    print_text(f"Medians of {counted(report['repeats'], 'interleaved round')}; code for {report['variant']}.")
