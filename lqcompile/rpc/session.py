"""One session of a board: a process of its own that does what one host asks for over TVM's RPC protocol.

A session is forked, so it starts at once, begins with nothing of the session before it, and takes nobody along when a
kernel crashes. The protocol on the wire is that of ``tvm.rpc`` (``tvm/rpc/server.py``, 0.27).
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import tvm_ffi
from tvm import runtime
from tvm.rpc import base

BROKEN_OFF = 3
"""Exit code of a session whose connection was lost, or on which something else than TVM's protocol came."""

_HANDSHAKE_S = 10.0
_LONGEST_KEY = 1024
_KEEP_ALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A host that vanishes without a word (cable, power) is given up after a minute: seconds, seconds, probes."""

_PR_SET_PDEATHSIG = 1


class RefusedError(Exception):
    """A connection that is not a client of this board."""


@dataclass(frozen=True, kw_only=True)
class Client:
    """A host that has been let in.

    Args:
        connection: its socket.
        limit_s: seconds that the session may take, None for no limit.
    """

    connection: socket.socket
    limit_s: float | None


def admit(connection: socket.socket, keys: Collection[str], name: str) -> Client:
    """Shake hands with a client.

    Args:
        connection: that it made.
        keys: of which it must present one.
        name: that the board goes by.

    Raises:
        RefusedError: it is not an RPC client, has another key, or says nothing for 10 seconds; it is disconnected.
    """
    try:
        connection.settimeout(_HANDSHAKE_S)
        words = _presented(connection)
        if words[0] not in {f"client:{key}" for key in keys}:
            connection.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
            raise RefusedError("its key is not this board's")
        answer = f"server:{name}".encode()
        connection.sendall(struct.pack("<ii", base.RPC_CODE_SUCCESS, len(answer)) + answer)
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEP_ALIVE.items():
            if hasattr(socket, option):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return Client(connection=connection, limit_s=_limit_s(words[1:]))
    except (OSError, ValueError) as error:
        connection.close()
        raise RefusedError(f"it is not an RPC client ({error})") from error
    except RefusedError:
        connection.close()
        raise


def start(client: Client, folder: Path, inherited: Collection[socket.socket]) -> BaseProcess:
    """Start the process of a session.

    Args:
        client: that it serves.
        folder: for what the client uploads.
        inherited: sockets of the server that the process must let go of.
    """
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(client.connection, folder, inherited))
    process.start()
    return process


def stop(process: BaseProcess) -> None:
    """End a session and all processes that it started, whatever they do."""
    if process.pid is not None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            process.kill()  # it has no group of its own yet
    process.join()


def is_gone(client: Client) -> bool:
    """Whether the client has closed its connection."""
    try:
        return not client.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True


def refuse_more_time(client: Client) -> None:
    """Tell the client of a session, if it is there, that its time is over: in the words that TVM's client knows."""
    if not is_gone(client):
        message = f"RPCSessionTimeoutError: Your {client.limit_s:g}s session has expired"
        tvm_ffi.get_global_func("rpc.ReturnException")(client.connection.fileno(), message)


def _presented(connection: socket.socket) -> list[str]:
    """What the client says first: ``client:KEY`` and options."""
    magic, length = struct.unpack("<ii", base.recvall(connection, 8))
    if magic != base.RPC_MAGIC or not 0 < length <= _LONGEST_KEY:
        raise RefusedError("it is not an RPC client")
    return base.recvall(connection, length).decode().split() or [""]


def _limit_s(options: list[str]) -> float | None:
    limits = [float(option.removeprefix("-timeout=")) for option in options if option.startswith("-timeout=")]
    return limits[0] if limits else None


def _serve(connection: socket.socket, folder: Path, inherited: Collection[socket.socket]) -> None:
    """The process of a session: until the client leaves."""
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    die_with_parent()
    for item in inherited:
        item.close()
    os.chdir(folder)
    tvm_ffi.register_global_func("tvm.rpc.server.workpath", lambda name: str(folder / name), override=True)
    tvm_ffi.register_global_func(
        "tvm.rpc.server.load_module", lambda name: runtime.load_module(str(folder / name)), override=True
    )
    try:
        tvm_ffi.get_global_func("rpc.ServerLoop")(connection.fileno())
    except RuntimeError:
        # What a call raises goes to the client; this is about the connection.
        sys.exit(BROKEN_OFF)


def die_with_parent() -> None:
    """A session ends with the server, even where that is killed."""
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
