"""What the commands print: tables and JSON on standard output, progress on standard error."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

ProgressCallback = Callable[[str, float], None]
"""Called with what is being done and the part of it that is done, 0 to 1."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 and the number of SIGINT."""

LINE_S = 10.0
"""Seconds between two lines of progress, where there is no terminal."""

EDGES = 2
"""Columns of a terminal that the edges of a table take."""

_FILE_WIDTH = 160

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def print_json(value: object) -> None:
    """Print JSON; numbers that JSON lacks (NaN, infinity) become null."""
    sys.stdout.write(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_text(text: str) -> None:
    """Print text as it is, without markup; broken between words on a terminal."""
    _console().print(text, markup=False, highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table, without a head where all names are empty; columns of figures are set to the right.

    Where a terminal is too narrow for it, several tables, each with the first column.
    """
    console = _console()
    console.print(f"[bold]{_escape(title)}[/bold]", highlight=False)
    parts = columns_that_fit(columns, rows, console.width) if console.is_terminal else [list(range(len(columns)))]
    for part in parts:
        console.print(_table([columns[index] for index in part], [[row[index] for index in part] for row in rows]))


def columns_that_fit(columns: Sequence[str], rows: Sequence[Sequence[object]], width: int) -> list[list[int]]:
    """Numbers of the columns that fit beside each other without breaking a word, the first column in every part.

    Example:
        >>> columns_that_fit(("layer", "kernel", "MACs"), [("conv1", "lut", "1,806,336")], 24)
        [[0, 1], [0, 2]]
    """
    cells = zip(columns, *rows, strict=True)
    words = [[word for cell in column for word in str(cell).split()] for column in cells]
    needed = [2 + max(map(len, found), default=0) for found in words]
    parts = [[0]]
    for index in range(1, len(columns)):
        if len(parts[-1]) > 1 and sum(needed[other] for other in (*parts[-1], index)) > width - EDGES:
            parts.append([0])
        parts[-1].append(index)
    return parts


@contextmanager
def progress_bar(what: str, *, line_s: float = LINE_S) -> Iterator[ProgressCallback]:
    """Show on standard error how far the block is: a bar on a terminal, else a line now and then.

    Args:
        what: first words of it.
        line_s: seconds between two lines.

    Yields:
        a callback that moves it.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(what, line_s)
        return
    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=1.0)

        def move(doing: str, done: float) -> None:
            bar.update(task, description=f"{what}: {doing}", completed=done)

        yield move


def in_kilobytes(size: float) -> str:
    """A size for people, in units of 1000 bytes: ``41.5 kB``."""
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def in_percent(part: float) -> str:
    """A part of 1 for people: ``91.4 %``."""
    return f"{100 * part:.1f} %"


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
    for index, name in enumerate(columns):
        right = index > 0 and all(str(row[index])[:1] in "0123456789-" for row in rows)
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(_escape(str(cell)) for cell in row))
    return table


def _lines(what: str, line_s: float) -> ProgressCallback:
    """Writes a line on standard error at most every `line_s` seconds, so nothing about what is soon done."""
    said = time.monotonic()

    def move(doing: str, done: float) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= line_s:
            said = now
            sys.stderr.write(f"{what}: {doing}, {100 * done:.0f} %\n")

    return move


def _console() -> Console:
    """Standard output, as wide as the terminal; what goes to a file or a pipe is not broken to a terminal's width."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _escape(text: str) -> str:
    return text.replace("[", "\\[")
