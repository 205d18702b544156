"""``lqcompile records``: tuning records, shown, merged and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lqcompile.cli.console import JsonOption, print_json, print_table, print_text
from lqcompile.cli.tuning import kernel_words
from lqcompile.wording import counted

app = typer.Typer(help="Show, merge and export tuning records.", no_args_is_help=True)

SHOW_EXAMPLE = "Example: lqcompile records show model.tune"
MERGE_EXAMPLE = "Example: lqcompile records merge board1.tune board2.tune -o all.tune"
EXPORT_EXAMPLE = "Example: lqcompile records export model.tune -o tuned.json"

PathsArgument = Annotated[
    list[Path], typer.Argument(help="Folders of 'lqcompile tune', or files of tuned kernels.", show_default=False)
]


@app.command("show", epilog=SHOW_EXAMPLE)
def show(paths: PathsArgument, *, json_output: JsonOption = False) -> None:
    """Say what records hold: machines, contractions, times, gains."""
    from lqcompile.records.instance import in_words
    from lqcompile.records.tuned import merge as merge_tuned

    entries = merge_tuned([read(path) for path in paths])
    trials = {str(path): _trials(path) for path in paths if path.is_dir()}
    if json_output:
        print_json(
            {
                "tuned": [{**_plain(entry), "key": entry.key.to_json()} for entry in entries],
                "trials": trials,
            }
        )
        return
    for key in dict.fromkeys(entry.key for entry in entries):
        rows = [
            (
                in_words(entry.instance),
                f"{entry.untuned.kernel} {entry.untuned.us:.1f}",
                f"{kernel_words(_plain(entry)['best'])} {entry.best.us:.1f}",
                f"{entry.gain:.2f}",
                entry.trials,
                entry.failed,
                entry.finished,
            )
            for entry in entries
            if entry.key == key
        ]
        title = f"{key.target} on {key.cpu} ({', '.join(key.features)}), TVM {key.tvm}, kernels {key.kernels}"
        print_table(title, ("contraction", "untuned us", "tuned us", "gain", "trials", "failed", "finished"), rows)
    for path, counts in trials.items():
        print_text(
            f"{path}: {counted(counts['trials'], 'trial')} of {counted(counts['contractions'], 'contraction')}, "
            f"{counts['failed']} failed"
        )


@app.command("merge", epilog=MERGE_EXAMPLE)
def merge(
    paths: PathsArgument,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write or to add to.")],
    json_output: JsonOption = False,
) -> None:
    """Put the records of several folders, also of different machines, into one."""
    from lqcompile.records.tuned import FILE_NAME, write_tuned
    from lqcompile.records.tuned import merge as merge_tuned
    from lqcompile.tuning.database import add_records, open_database

    groups = [read(path) for path in (*paths, *([output] if _has_tuned(output) else []))]
    database = open_database(output)
    added = sum(add_records(database, open_database(path)) for path in paths if path.is_dir())
    entries = merge_tuned(groups)
    write_tuned(output / FILE_NAME, entries)
    if json_output:
        print_json({"output": str(output), "tuned": len(entries), "added": added, "trials": len(database)})
    else:
        tuned = counted(len(entries), "tuned kernel")
        print_text(f"{output}: {tuned}, {counted(added, 'trial')} added, {len(database)} in all")


@app.command("export", epilog=EXPORT_EXAMPLE)
def export(
    paths: PathsArgument,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    json_output: JsonOption = False,
) -> None:
    """Write the tuned kernels into one file, for 'lqcompile build --records'."""
    from lqcompile.errors import TuningError
    from lqcompile.records.tuned import merge as merge_tuned
    from lqcompile.records.tuned import write_tuned

    entries = merge_tuned([read(path) for path in paths])
    if not entries:
        raise TuningError(
            f"records {', '.join(map(repr, map(str, paths)))}: found no tuned kernel, expected at least one; finish "
            "'lqcompile tune' with that folder first"
        )
    write_tuned(output, entries)
    if json_output:
        print_json({"output": str(output), "tuned": len(entries)})
    else:
        print_text(f"{output}: {counted(len(entries), 'tuned kernel')}")


def read(path: Path) -> list[Any]:
    """Tuned kernels of a file or folder; a folder whose tuning was not finished has none yet."""
    from lqcompile.records.tuned import read_tuned
    from lqcompile.tuning.database import TRIALS

    return [] if (path / TRIALS).exists() and not _has_tuned(path) else read_tuned(path)


def _has_tuned(path: Path) -> bool:
    from lqcompile.records.tuned import FILE_NAME

    return (path / FILE_NAME).exists()


def _trials(path: Path) -> dict[str, int]:
    from lqcompile.tuning.database import is_valid, open_database
    from lqcompile.tuning.workload import identity

    records = open_database(path).get_all_tuning_records()
    return {
        "trials": len(records),
        "failed": sum(not is_valid(record) for record in records),
        "contractions": len({identity(record.workload.mod) for record in records}),
    }


def _plain(entry: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(entry)
