"""Finding the compiled model and the samples that a command works on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lqcompile.cli.console import ProgressCallback

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lqcompile.inputs import Arrays, Port
    from lqcompile.rpc.device import Device
    from lqcompile.rpc.model import RemoteModel
    from lqcompile.runtime import CompiledModel

ArtifactOption = Annotated[
    Path | None, typer.Option("--artifact", "-a", help="Artifact of MODEL; without it MODEL is built for --target.")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads (default: all cores).")]
SamplesOption = Annotated[
    Path | None,
    typer.Option("--samples", "-s", help=".npz with the input (or 'images') and perhaps 'labels'; uint8 becomes 0..1."),
]
SeedOption = Annotated[int, typer.Option("--seed", help="Seed of random samples.")]


@contextmanager
def compiled_model(
    model: Path,
    artifact: Path | None,
    target: str,
    threads: int | None,
    progress: ProgressCallback,
    device: Device | None = None,
) -> Iterator[CompiledModel | RemoteModel]:
    """Load the artifact of a model; build it in a temporary folder where none is given.

    Args:
        model: ONNX file, or an artifact (then nothing is built).
        artifact: its artifact, or None.
        target: what to build for.
        threads: threads to run with, or None for all cores.
        progress: moves the bar while building and uploading.
        device: board to load it on, or None for this machine.
    """
    with artifact_file(model, artifact, target, progress, device) as path:
        if device is None:
            from lqcompile.runtime import load

            yield load(path, threads=threads)
        else:
            from lqcompile.rpc.model import RemoteModel

            yield RemoteModel(device, path, threads=threads, progress=progress)


@contextmanager
def artifact_file(
    model: Path, artifact: Path | None, target: str, progress: ProgressCallback, device: Device | None = None
) -> Iterator[Path]:
    """The artifact of a model; built in a temporary folder where none is given.

    Raises:
        TargetError: it would be built for another architecture than the board's.
    """
    from lqcompile.artifact import is_artifact

    if artifact is None and is_artifact(model):
        artifact = model
    if artifact is not None:
        yield artifact
        return
    from lqcompile.build import build
    from lqcompile.errors import TargetError
    from lqcompile.target import find

    if device is not None and find(target).machine != device.info["machine"]:
        raise TargetError(
            f"target '{target}': found code for {find(target).machine}, expected {device.info['machine']} as on "
            f"{device}; choose another --target ('lqcompile targets' lists them), or give an artifact"
        )
    with tempfile.TemporaryDirectory(prefix="lqcompile-") as folder:
        path = Path(folder) / "model.tar"
        build(model, target=target, output=path, progress=progress)
        yield path


def samples_for(port: Port, samples: Path | None, count: int, seed: int) -> tuple[Arrays, npt.NDArray[np.int64] | None]:
    """Samples and labels of a file, or random samples without labels."""
    from lqcompile.inputs import load_samples, random_inputs

    return load_samples(samples, port) if samples else (random_inputs([port], count, seed), None)
