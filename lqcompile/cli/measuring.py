"""Profiling an artifact on the command line: the options, and the profile, here or on a board."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from lqcompile.cli.console import ProgressCallback

if TYPE_CHECKING:
    from lqcompile.artifact import Artifact
    from lqcompile.cuda.model import CudaModel
    from lqcompile.inputs import Arrays
    from lqcompile.profiling.measure import Place
    from lqcompile.rpc.device import Device
    from lqcompile.select import Machine
    from lqcompile.target import Target

InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        "-i",
        help="FILE.npz, NAME=FILE.npy, or FILE.npy for the only input; the first sample counts (default: random).",
    ),
]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Threads to run with.")]
LimitOption = Annotated[
    float,
    typer.Option("--limit", metavar="SECONDS", min=0.0, help="Longest timing; it ends once the median is certain."),
]
AlternativesOption = Annotated[
    bool, typer.Option("--alternatives", help="Also time every kernel that could serve each layer; needs --model.")
]
EmulatedOption = Annotated[
    bool, typer.Option("--emulated", help="Time an emulator too, though such times mean nothing.")
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch",
        min=1,
        help="Samples that run together, on a GPU; times are those of one (default: the target's, 32).",
    ),
]
DEFAULT_LIMIT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to profile, as the options say it.

    Args:
        artifact: the file.
        model: the ONNX file to time alternatives from, or None.
        inputs: files of one sample, or None for a random one.
        seed: of the random sample.
        threads: to run with.
        limit_s: longest timing.
        emulated: whether times of an emulator are wanted.
        batch: samples that run together, on a GPU; None for the target's.
    """

    artifact: Path
    model: Path | None
    inputs: list[str] | None
    seed: int
    threads: int
    limit_s: float
    emulated: bool
    batch: int | None


def profile_artifact(request: Request, device: Device | None, move: ProgressCallback) -> dict[str, Any]:
    """The profile of an artifact on a board, or here where there is none.

    Raises:
        LQCompileError: a file does not serve, or a board fails; the message says what to do.
    """
    from lqcompile.artifact import read_artifact
    from lqcompile.profiling.candidates import time_alternatives
    from lqcompile.profiling.measure import measure
    from lqcompile.profiling.profile import check_facts, make_profile

    artifact = read_artifact(request.artifact)
    check_facts(artifact.manifest, request.artifact.name)
    variant, target, place = _place(request, artifact, device, move)
    library = b""
    if not target.on_gpu:
        from lqcompile.profiling.probes import probe_library

        move("compiling probes", 0.0)
        library = probe_library(target)
    measurement = measure(place, library, threads=request.threads, limit_s=request.limit_s, progress=move)
    timed = None
    if request.model is not None:
        timed = time_alternatives(request.model, artifact.manifest, target, _machine(device), move)
    return make_profile(
        artifact.manifest,
        variant,
        measurement,
        file=request.artifact.name,
        artifact_bytes=request.artifact.stat().st_size,
        timed=timed,
        samples=target.samples,
    )


def _place(
    request: Request, artifact: Artifact, device: Device | None, move: ProgressCallback
) -> tuple[dict[str, Any], Target, Place]:
    """The variant that runs, its target with the samples that run together, and the place where it is loaded.

    Raises:
        InputError: an option asks for what there is not on a GPU, or for samples at a time on a CPU.
    """
    from lqcompile.target import GPU, find, with_samples

    if artifact.manifest["machine"] == GPU:
        return _gpu(request, artifact, device)
    if request.batch is not None:
        with_samples(find(artifact.manifest["target"]), request.batch)
    if device is not None:
        from lqcompile.rpc.profile import BoardPlace

        board = BoardPlace(
            device,
            request.artifact,
            _sample(request, artifact),
            threads=request.threads,
            emulated=request.emulated,
            progress=move,
        )
        return board.model.variant, find(board.model.variant["name"]), board
    from lqcompile.profiling.here import Here
    from lqcompile.runtime import load

    model = load(request.artifact, threads=request.threads)
    return (
        model.variant,
        find(model.variant["name"]),
        Here(model, _sample(request, artifact), emulated=request.emulated),
    )


def _gpu(request: Request, artifact: Artifact, device: Device | None) -> tuple[dict[str, Any], Target, Place]:
    from lqcompile.errors import InputError
    from lqcompile.profiling.gpu import GpuPlace
    from lqcompile.runtime import load
    from lqcompile.target import find, with_samples

    for name, given in (("--rpc", device is not None), ("--threads", request.threads != 1)):
        if given:
            raise InputError(
                f"artifact '{request.artifact}': found {name} with code for a GPU, expected none; profile on the "
                "machine that has the GPU, where nothing has threads to set"
            )
    model = cast("CudaModel", load(request.artifact))
    target = find(model.variant["name"])
    target = target if request.batch is None else with_samples(target, request.batch)
    return model.variant, target, GpuPlace(model, _sample(request, artifact), target.samples)


def _sample(request: Request, artifact: Artifact) -> Arrays:
    from lqcompile.inputs import check_inputs, load_inputs, random_inputs
    from lqcompile.runtime import Port

    ports = [Port.from_manifest(entry) for entry in artifact.manifest["inputs"]]
    if not request.inputs:
        return random_inputs(ports, 1, request.seed)
    arrays = check_inputs(ports, load_inputs(request.inputs, ports))
    return {name: array[:1] for name, array in arrays.items()}


def _machine(device: Device | None) -> Machine:
    if device is None:
        from lqcompile.select import HERE

        return HERE
    from lqcompile.rpc.kernels import Board

    return Board(device)
