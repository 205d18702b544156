"""``lqcompile devices``."""

from __future__ import annotations

from typing import Annotated

import typer

from lqcompile.cli.console import JsonOption, print_json, print_table, print_text
from lqcompile.cli.reaching import DEFAULT_TIMEOUT, TimeoutOption

EXAMPLE = "Example: lqcompile devices --tracker 127.0.0.1:9190"


def devices(
    *,
    tracker: Annotated[str, typer.Option("--tracker", metavar="HOST:PORT", help="Tracker to ask.")] = "127.0.0.1:9190",
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json_output: JsonOption = False,
) -> None:
    """List the boards of a tracker: which are free, and how many requests wait."""
    from lqcompile.addresses import parse_address
    from lqcompile.tracker import list_boards

    entries = [boards.to_json() for boards in list_boards(parse_address(tracker), timeout)]
    if json_output:
        print_json({"tracker": tracker, "keys": entries})
        return
    print_table(
        f"Boards of tracker {tracker}",
        ("key", "boards", "free", "busy", "waiting", "addresses"),
        [
            (entry["key"], len(entry["boards"]), entry["free"], entry["busy"], entry["waiting"], _addresses(entry))
            for entry in entries
        ],
    )
    if not entries:
        print_text("No board has registered; start 'lqcompile serve --tracker HOST:PORT --key KEY' on one.")


def _addresses(entry: dict[str, list[str]]) -> str:
    return ", ".join(entry["boards"]) or "none any more"
