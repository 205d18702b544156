"""``lqcompile serve``."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

EXAMPLE = "Example: lqcompile serve --key rpi4 --tracker 127.0.0.1:9190"


def serve(
    *,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; 0.0.0.0 is every address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 9090,
    key: Annotated[str, typer.Option("--key", help="What hosts ask for, such as rpi4.")] = "",
    tracker: Annotated[
        str | None, typer.Option("--tracker", metavar="HOST:PORT", help="Tracker to register with.")
    ] = None,
) -> None:
    """Make this machine available to 'bench', 'verify' and 'run' on other machines, until Ctrl-C.

    TVM's runtime is all it needs. There is no authentication and what hosts send is run: serve on the default address
    and reach it through an SSH tunnel.
    """
    os.environ["TVM_USE_RUNTIME_LIB"] = "1"  # before TVM is imported: no compiler is loaded, also where there is one
    from lqcompile.rpc.addresses import parse_address
    from lqcompile.rpc.serve import serve as serve_board

    serve_board((host, port), key=key, tracker=None if tracker is None else parse_address(tracker), log=_log)


def _log(line: str) -> None:
    sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
    sys.stderr.flush()
