"""``lqcompile bundle``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lqcompile.cli.console import JsonOption, in_kilobytes, print_json, print_table, print_text, progress_bar

EXAMPLE = "Example: lqcompile bundle --target arm-cpu -o board.tar.gz"

_PYTHONS_HELP = "Python version of the board; may be repeated (default: 3.11 and 3.13, Raspberry Pi OS 12 and 13)."


def bundle(
    *,
    target: Annotated[str, typer.Option("--target", "-t", help="A target of the board's architecture.")] = "arm-cpu",
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("board.tar.gz"),
    python: Annotated[list[str] | None, typer.Option("--python", metavar="VERSION", help=_PYTHONS_HELP)] = None,
    wheels: Annotated[
        Path | None, typer.Option("--wheels", metavar="DIR", help="Keep downloads here, and use those that are here.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Make one file with all that a board needs beside its own Python: TVM's runtime and lqcompile."""
    from lqcompile.bundle import FOLDER, PYTHONS
    from lqcompile.bundle import bundle as make_bundle

    with progress_bar(f"Making {output.name}") as move:
        report = make_bundle(target, output=output, pythons=python or PYTHONS, wheels=wheels, progress=move).to_json()
    if json_output:
        print_json(report)
        return
    print_table(
        f"{output} for {report['machine']} with Python {' or '.join(report['pythons'])}",
        ("package", "version"),
        sorted(report["packages"].items()),
    )
    print_text(
        f"Made in {report['seconds']:.1f} s: {in_kilobytes(report['bytes'])}. Copy it to the board, and there: "
        f"tar xf {output.name} && ./{FOLDER}/serve"
    )
