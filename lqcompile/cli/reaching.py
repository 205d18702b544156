"""Boards on the command line: the options that reach one, and the session on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from lqcompile.cli.console import ProgressCallback

if TYPE_CHECKING:
    from lqcompile.rpc.device import Device

RpcOption = Annotated[
    str | None, typer.Option("--rpc", metavar="HOST:PORT", help="Use the board where 'lqcompile serve' listens.")
]
TrackerOption = Annotated[
    str | None, typer.Option("--tracker", metavar="HOST:PORT", help="Use a free board of this tracker; needs --key.")
]
KeyOption = Annotated[str, typer.Option("--key", help="Key that the board serves under.")]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        metavar="SECONDS",
        min=0.1,
        help="Longest wait for a board: until one is free, and for each answer.",
    ),
]
DEFAULT_TIMEOUT = 60.0


@contextmanager
def board(
    rpc: str | None, tracker: str | None, key: str, timeout_s: float, progress: ProgressCallback
) -> Iterator[Device | None]:
    """A session on the board that the options name; None where they name none.

    Raises:
        InputError: the options do not go together.
        DeviceError: there is no such board, or it does not answer in time.
    """
    if not names_board("board", rpc, tracker, key):
        yield None
        return
    from lqcompile.rpc.addresses import parse_address
    from lqcompile.rpc.device import Device, request_device

    progress("connecting", 0.0)
    if rpc is not None:
        device = Device(parse_address(rpc), key, timeout_s=timeout_s)
    else:
        device = request_device(
            parse_address(str(tracker)),
            key,
            timeout_s=timeout_s,
            waiting=lambda state: progress(f"waiting, {state}", 0.0),
        )
    with device:
        yield device


def names_board(who: str, rpc: str | None, tracker: str | None, key: str) -> bool:
    """Whether the options name a board.

    Args:
        who: whom an error is about.
        rpc: address of a board.
        tracker: address of a tracker.
        key: that the board serves under; empty for none.

    Raises:
        InputError: the options do not go together.
    """
    from lqcompile.errors import InputError

    if rpc is not None and tracker is not None:
        raise InputError(f"{who}: found --rpc and --tracker, expected one of them")
    if tracker is not None and not key:
        raise InputError(f"{who}: found --tracker without --key, expected both; 'lqcompile devices' lists the keys")
    if rpc is None and tracker is None and key:
        raise InputError(f"{who}: found --key alone, expected --rpc or --tracker with it")
    return rpc is not None or tracker is not None
