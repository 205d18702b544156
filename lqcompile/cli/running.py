"""``lqcompile run``."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Annotated

import typer

from lqcompile.cli.console import JsonOption, print_json, print_table, print_text
from lqcompile.cli.opening import SeedOption, ThreadsOption

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
    json_output: JsonOption = False,
) -> None:
    """Run an artifact on arrays."""
    import numpy as np

    from lqcompile.errors import InputError
    from lqcompile.files import check_writable, write_atomically
    from lqcompile.inputs import check_inputs, load_inputs, random_inputs
    from lqcompile.runtime import load

    if bool(inputs) == (random is not None):
        raise InputError("run: found neither or both of --input and --random, expected one of them")
    if output is not None:
        check_writable(output)
    compiled = load(artifact, threads=threads)
    arrays = load_inputs(inputs, compiled.inputs) if inputs else random_inputs(compiled.inputs, random or 0, seed)
    arrays = check_inputs(compiled.inputs, arrays)
    start = time.perf_counter()
    outputs = compiled.run(arrays)
    seconds = time.perf_counter() - start
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
        print_json(
            {
                "artifact": str(artifact),
                "variant": compiled.variant["name"],
                "seconds": seconds,
                "outputs": facts,
                "file": str(output) if output else None,
            }
        )
        return
    print_table(
        f"{artifact.name}, code for {compiled.variant['name']}",
        ("output", "dtype", "shape", "smallest", "largest"),
        [(fact["name"], fact["dtype"], fact["shape"], f"{fact['min']:.6g}", f"{fact['max']:.6g}") for fact in facts],
    )
    print_text(f"Ran in {1e3 * seconds:.2f} ms" + (f"; outputs are in {output}" if output else ""))
