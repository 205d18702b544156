"""``lqcompile devices``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lqcompile.cli.console import JsonOption, print_json, print_table, print_text, progress_bar
from lqcompile.cli.reaching import DEFAULT_TIMEOUT, KeyOption, RpcOption, TimeoutOption, board
from lqcompile.conditions import state_in_words

EXAMPLE = "Example: lqcompile devices --tracker 127.0.0.1:9190"

DEFAULT_TRACKER = "127.0.0.1:9190"


def devices(
    *,
    tracker: Annotated[
        str | None,
        typer.Option(
            "--tracker", metavar="HOST:PORT", help=f"Tracker to ask (default: {DEFAULT_TRACKER}).", show_default=False
        ),
    ] = None,
    rpc: RpcOption = None,
    key: KeyOption = "",
    timeout: TimeoutOption = DEFAULT_TIMEOUT,
    json_output: JsonOption = False,
) -> None:
    """List the boards of a tracker; with --rpc or --key, say what one board is and how it is now."""
    if rpc is None and not key:
        _list(tracker or DEFAULT_TRACKER, timeout, json_output=json_output)
        return
    if rpc is None and tracker is None:
        tracker = DEFAULT_TRACKER
    with progress_bar("Board") as move, board(rpc, tracker, key, timeout, move) as device:
        if device is not None:
            _describe(str(device), device.info, json_output=json_output)


def _list(tracker: str, timeout_s: float, *, json_output: bool) -> None:
    from lqcompile.rpc.addresses import parse_address
    from lqcompile.rpc.tracker import list_boards

    entries = [boards.to_json() for boards in list_boards(parse_address(tracker), timeout_s)]
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


def _describe(name: str, info: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json({"device": name, **info})
        return
    versions = ", ".join(f"{package} {version}" for package, version in info["versions"].items())
    rows = [
        ("CPU", f"{info['cpu']}, {info['machine']}, {info['system']}"),
        ("cores", info["cores"]),
        ("features", " ".join(info["features"])),
        ("state", state_in_words(info)),
        ("emulation", info["emulator"] or "none"),
        ("software", f"Python {info['python']}, {versions}"),
    ]
    print_table(name.capitalize(), ("", ""), rows)


def _addresses(entry: dict[str, list[str]]) -> str:
    return ", ".join(entry["boards"]) or "none any more"
