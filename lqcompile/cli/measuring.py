"""Profiling an artifact on the command line: the options, and the profile, here or on a board."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lqcompile.cli.console import ProgressCallback

if TYPE_CHECKING:
    from lqcompile.artifact import Artifact
    from lqcompile.inputs import Arrays
    from lqcompile.profiling.measure import Place
    from lqcompile.rpc.device import Device
    from lqcompile.select import Machine

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
    """

    artifact: Path
    model: Path | None
    inputs: list[str] | None
    seed: int
    threads: int
    limit_s: float
    emulated: bool


def profile_artifact(request: Request, device: Device | None, move: ProgressCallback) -> dict[str, Any]:
    """The profile of an artifact on a board, or here where there is none.

    Raises:
        LQCompileError: a file does not serve, or a board fails; the message says what to do.
    """
    from lqcompile.artifact import read_artifact
    from lqcompile.errors import InputError
    from lqcompile.profiling.candidates import time_alternatives
    from lqcompile.profiling.measure import measure
    from lqcompile.profiling.probes import probe_library
    from lqcompile.profiling.profile import check_facts, make_profile
    from lqcompile.runtime import LOADERS
    from lqcompile.target import find

    artifact = read_artifact(request.artifact)
    machine = artifact.manifest["machine"]
    if machine in LOADERS:
        raise InputError(
            f"artifact '{request.artifact}': found code for {machine}, expected code for a CPU; only their layers are "
            "profiled so far, 'lqcompile bench' times the whole"
        )
    check_facts(artifact.manifest, request.artifact.name)
    variant, place = _place(request, artifact, device, move)
    move("compiling probes", 0.0)
    library = probe_library(find(variant["name"]))
    measurement = measure(place, library, threads=request.threads, limit_s=request.limit_s, progress=move)
    timed = None
    if request.model is not None:
        timed = time_alternatives(request.model, artifact.manifest, variant["name"], _machine(device), move)
    return make_profile(
        artifact.manifest,
        variant,
        measurement,
        file=request.artifact.name,
        artifact_bytes=request.artifact.stat().st_size,
        timed=timed,
    )


def _place(
    request: Request, artifact: Artifact, device: Device | None, move: ProgressCallback
) -> tuple[dict[str, Any], Place]:
    """The variant that runs, and the place where it is loaded."""
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
        return board.model.variant, board
    from lqcompile.profiling.here import Here
    from lqcompile.runtime import load

    model = load(request.artifact, threads=request.threads)
    return model.variant, Here(model, _sample(request, artifact), emulated=request.emulated)


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
