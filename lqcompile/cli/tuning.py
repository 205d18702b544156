"""``lqcompile tune``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lqcompile.cli.building import DEFAULT_TARGET, BatchOption, artifact_path, show_records
from lqcompile.cli.console import INTERRUPTED, LINE_S, JsonOption, print_json, print_table, print_text, progress_bar
from lqcompile.cli.reaching import DEFAULT_TIMEOUT, KeyOption, RpcOption, TimeoutOption, TrackerOption, names_board
from lqcompile.wording import counted

if TYPE_CHECKING:
    from lqcompile.records.key import Key
    from lqcompile.target import Target
    from lqcompile.tuning.boards import Boards
    from lqcompile.tuning.outcome import Status

EXAMPLE = "Example: lqcompile tune model.onnx --target x86 --budget 10m -o tuned.tar"


def tune(
    model: Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)],
    *,
    target: Annotated[
        str, typer.Option("--target", "-t", help="Machine to tune for; it must be what measures.")
    ] = DEFAULT_TARGET,
    budget: Annotated[
        str, typer.Option("--budget", help="A time (20m, 90s, 2h), or a number of kernels to measure (trials=500).")
    ] = "10m",
    work_dir: Annotated[
        Path | None,
        typer.Option("--work-dir", metavar="DIR", help="Folder of all records (default: MODEL with .tune)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Artifact to write (default: MODEL with .tar).")
    ] = None,
    batch: BatchOption = None,
    rpc: RpcOption = None,
    tracker: TrackerOption = None,
    key: KeyOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json_output: JsonOption = False,
) -> int:
    """Search the fastest kernel of each layer by measuring them, here or on a pool of boards, and build with it."""
    from lqcompile.build import build
    from lqcompile.files import check_writable
    from lqcompile.graph.check import load_checked
    from lqcompile.graph.fuse import make_plan
    from lqcompile.target import find, with_samples
    from lqcompile.tuning.boards import open_pool
    from lqcompile.tuning.budget import parse_budget
    from lqcompile.tuning.guard import guard
    from lqcompile.tuning.tune import check_extra
    from lqcompile.tuning.tune import tune as tune_plan

    spend = parse_budget(budget)
    check_extra()
    artifact, folder = artifact_path(model, output), work_dir or model.with_suffix(".tune")
    boards = _boards(rpc, tracker, key, timeout)
    machine = find(target) if batch is None else with_samples(find(target), batch)
    check_writable(artifact)
    plan = make_plan(load_checked(model))
    variant, where = _here(machine) if boards is None else _there(boards, machine)
    with _progress(model.name, variant.name) as (watch, say):
        result = tune_plan(
            plan,
            variant,
            where,
            spend,
            folder,
            watch=watch,
            make_executor=None if boards is None else lambda: open_pool(boards, variant, where, say),
        )
    verdict = None
    if boards is None:
        result, verdict = guard(result, model, variant, folder)
    with progress_bar(f"Building {model.name}") as move:
        built = build(
            model, target=target, output=artifact, records=[folder], cpu_model=where.cpu, batch=batch, progress=move
        ).to_json()
    report = {**result.to_json(), "work_dir": str(folder), "artifact": str(artifact), "build": built}
    report["network"] = None if verdict is None else verdict.to_json()
    if json_output:
        print_json(report)
    else:
        show_tuning(report)
    return INTERRUPTED if result.interrupted else 0


def _boards(rpc: str | None, tracker: str | None, key: str, timeout_s: float) -> Boards | None:
    """The boards that the options name; None for this machine.

    Raises:
        InputError: the options do not go together.
    """
    from lqcompile.rpc.addresses import parse_address
    from lqcompile.tuning.boards import Boards

    if not names_board("tune", rpc, tracker, key):
        return None
    return Boards(
        tracker=parse_address(tracker) if tracker is not None else None,
        rpc=parse_address(rpc) if rpc is not None else None,
        key=key,
        timeout_s=timeout_s,
    )


def _here(machine: Target) -> tuple[Target, Key]:
    from lqcompile.errors import TargetError
    from lqcompile.records.key import key_here
    from lqcompile.select import HERE
    from lqcompile.target import expand

    fitting = [variant for variant in expand(machine) if not HERE.missing(variant)]
    if not fitting:
        raise TargetError(
            f"target {machine.name!r}: found this machine to lack {', '.join(HERE.missing(expand(machine)[0]))}, "
            "expected one that can run what is measured; tune on such a machine, or on boards with --rpc or --tracker"
        )
    return fitting[-1], key_here(fitting[-1])


def _there(boards: Boards, machine: Target) -> tuple[Target, Key]:
    from lqcompile.tuning.boards import probe

    return probe(boards, machine)


@contextmanager
def _progress(model: str, target: str) -> Iterator[tuple[Callable[[Status], None], Callable[[str], None]]]:
    """Shows progress on standard error: one live line on a terminal, else a line now and then.

    Yields:
        what takes the state of the tuning, and what takes a line about a board.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console(stderr=True)
    what = f"Tuning {model} for {target}"
    if console.is_terminal:
        with Live(Text(what), console=console, refresh_per_second=4, transient=True) as live:
            yield (
                lambda status: live.update(Text(f"{what}: {status_line(status)}")),
                lambda text: console.print(text, markup=False, highlight=False),
            )
        return
    said, doing = 0.0, ""

    def line(status: Status) -> None:
        nonlocal said, doing
        now = time.monotonic()
        if status.doing.split()[0] != doing or now - said >= LINE_S:
            said, doing = now, status.doing.split()[0]
            typer.echo(f"{what}: {status_line(status)}", err=True)

    yield line, lambda text: typer.echo(f"{what}: {text}", err=True)


def status_line(status: Status) -> str:
    """The state of a tuning in one line."""
    words = [status.doing]
    if status.layers:
        earlier = f" and {counted(status.earlier, 'earlier one')}" if status.earlier else ""
        failed = f", {status.failed} failed" if status.failed else ""
        words.append(f"{counted(status.trials, 'trial')}{earlier} of {counted(status.layers, 'contraction')}{failed}")
    if status.best_us is not None and status.gain is not None:
        words.append(f"best {status.best_us:.0f} us, {status.gain:.2f} x the start")
    words.append(f"{duration(status.seconds)} gone")
    if status.seconds_left is not None:
        words.append(f"{duration(status.seconds_left)} of the search left")
    if status.trials_left is not None:
        words.append(f"{counted(status.trials_left, 'trial')} left")
    if status.sites:
        words.append(f"on {', '.join(status.sites)}")
    return "; ".join(words)


def duration(seconds: float) -> str:
    """A time for people: ``3 min 20 s``."""
    whole = max(0, round(seconds))
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def show_tuning(report: dict[str, Any]) -> None:
    """Print what tuning found: each distinct contraction, and what failed."""
    from lqcompile.records.instance import in_words

    rows = [
        (
            ", ".join(row["layers"]),
            in_words(row["instance"]),
            row["untuned"]["kernel"],
            f"{row['untuned']['us']:.1f}",
            kernel_words(row["best"]) if row["best"] != row["untuned"] else "as untuned",
            f"{row['best']['us']:.1f}",
            f"{row['gain']:.2f}",
            row["trials"],
            row["failed"],
        )
        for row in report["contractions"]
    ]
    columns = ("layers", "contraction", "untuned", "us", "tuned", "us", "gain", "trials", "failed")
    print_table(f"{report['artifact']} tuned for {report['key']['target']} on {report['key']['cpu']}", columns, rows)
    for failure, count in report["failures"].items():
        print_text(f"{counted(count, 'trial')} failed: {failure}")
    earlier = f" and {counted(report['earlier'], 'earlier one')}" if report["earlier"] else ""
    print_text(
        f"{counted(report['trials'], 'trial')}{earlier} in {duration(report['seconds'])}. Times compare both kernels "
        "in one interleaved run; a layer without a clear gain keeps the cost table's kernel. "
        f"Records: {report['work_dir']}"
    )
    if report["network"] is not None:
        print_text(network_words(report["network"]))
    show_records(report["build"]["records"])


def network_words(verdict: dict[str, Any]) -> str:
    """What the records do to the network as a whole, in one line."""
    times = f"{verdict['gain']:.3f} x as fast as without (+- {verdict['uncertainty']:.1%}), in one interleaved run"
    if verdict["kept"]:
        return f"With these kernels the network runs {times}."
    return f"With the faster kernels the network runs only {times}: their records were dropped."


def kernel_words(timed: dict[str, Any]) -> str:
    """A kernel with the fields of its tile: ``dot8 pixels=4 blocks=2``."""
    return " ".join([timed["kernel"], *(f"{name}={value}" for name, value in timed["tile"].items())])
