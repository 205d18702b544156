"""``lqcompile run``."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from lqcompile.cli.console import JsonOption, print_json, print_table, print_text, progress_bar
from lqcompile.cli.opening import SeedOption, ThreadsOption, compiled_model
from lqcompile.cli.reaching import DEFAULT_TIMEOUT, KeyOption, RpcOption, TimeoutOption, TrackerOption, board

if TYPE_CHECKING:
    from lqcompile.rpc.model import RemoteModel

EXAMPLE = "Example: lqcompile run model.tar --input image.npy -o result.npz"


def run(
    artifact: Annotated[Path, typer.Argument(help="Artifact that 'lqcompile build' wrote.", show_default=False)],
    *,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", "-i", help="FILE.npz, NAME=FILE.npy, or FILE.npy for the only input; may be repeated."),
    ] = None,
    random: Annotated[
        int | None, typer.Option("--random", metavar="N", help="Run on N random samples instead.")
    ] = None,
    seed: SeedOption = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the outputs to this .npz file.")] = None,
    threads: ThreadsOption = None,
    rpc: RpcOption = None,
    tracker: TrackerOption = None,
    key: KeyOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json_output: JsonOption = False,
) -> None:
    """Run an artifact on arrays."""
    import numpy as np

    from lqcompile import cpu
    from lqcompile.conditions import emulator
    from lqcompile.errors import InputError
    from lqcompile.files import check_writable, write_atomically
    from lqcompile.inputs import check_inputs, load_inputs, random_inputs

    if bool(inputs) == (random is not None):
        raise InputError("run: found neither or both of --input and --random, expected one of them")
    if output is not None:
        check_writable(output)
    with (
        progress_bar(f"Running {artifact.name}") as move,
        board(rpc, tracker, key, timeout, move) as device,
        compiled_model(artifact, artifact, "", threads, move, device) as compiled,
    ):
        arrays = load_inputs(inputs, compiled.inputs) if inputs else random_inputs(compiled.inputs, random or 0, seed)
        arrays = check_inputs(compiled.inputs, arrays)
        start = time.perf_counter()
        outputs = compiled.run(arrays)
        passed = time.perf_counter() - start
    seconds = passed if emulator(cpu.machine()) is None else None
    if device is not None:
        seconds = cast("RemoteModel", compiled).seconds
    if output is not None:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **outputs)
        write_atomically(output, buffer.getvalue())
    facts = [
        {
            "name": name,
            "shape": list(array.shape),
            "dtype": str(array.dtype),
            "min": float(array.min()),
            "max": float(array.max()),
        }
        for name, array in outputs.items()
    ]
    if json_output:
        report = {
            "artifact": str(artifact),
            "variant": compiled.variant["name"],
            "seconds": seconds,
            "outputs": facts,
            "file": str(output) if output else None,
        }
        print_json(report if device is None else report | {"device": str(device)})
        return
    print_table(
        f"{artifact.name}, code for {compiled.variant['name']}" + (f", on {device}" if device is not None else ""),
        ("output", "dtype", "shape", "smallest", "largest"),
        [(fact["name"], fact["dtype"], fact["shape"], f"{fact['min']:.6g}", f"{fact['max']:.6g}") for fact in facts],
    )
    time_text = (
        "Ran under emulation, where a time means nothing" if seconds is None else f"Ran in {1e3 * seconds:.2f} ms"
    )
    print_text(time_text + (f"; outputs are in {output}" if output else ""))
