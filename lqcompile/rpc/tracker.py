"""Asking TVM's tracker, which knows the boards, for one of them or for all.

TVM's own client waits for ever for a board that nobody has; here every wait has a deadline. The protocol
(tvm/rpc/tracker.py): both sides send a magic number, then JSON texts with their size before them.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm.rpc.base import RPC_TRACKER_MAGIC, TrackerCode

from lqcompile.errors import DeviceError
from lqcompile.wording import counted

Address = tuple[str, int]
"""Host name and port."""

_LOOK_S = 1.0
"""How often the list of keys is looked at again while waiting for a board."""

_LARGEST_MESSAGE = 1 << 24
"""What claims to be larger is no tracker."""


@dataclass(frozen=True, kw_only=True)
class Boards:
    """The boards of one key.

    Args:
        key: that they registered with.
        addresses: where they listen, as the tracker knows it.
        free: boards that wait for work.
        waiting: requests that wait for a board.
    """

    key: str
    addresses: tuple[str, ...]
    free: int
    waiting: int

    def to_json(self) -> dict[str, Any]:
        """Stable keys."""
        return {
            "key": self.key,
            "boards": list(self.addresses),
            "free": self.free,
            "busy": max(0, len(self.addresses) - self.free),
            "waiting": self.waiting,
        }


def address_text(address: Address) -> str:
    """``HOST:PORT`` as `lqcompile.rpc.addresses.parse_address` reads it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def list_boards(tracker: Address, timeout_s: float) -> list[Boards]:
    """All boards that the tracker knows, by key.

    Raises:
        DeviceError: there is no tracker, or it does not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    with _Connection(tracker, deadline) as connection:
        return connection.boards(deadline)


def request_board(tracker: Address, key: str, timeout_s: float, waiting: Callable[[str], None]) -> tuple[Address, str]:
    """Wait for a free board.

    Args:
        tracker: where it listens.
        key: that the board registered with.
        timeout_s: longest wait.
        waiting: called about once a second with what is waited for.

    Returns:
        where the board listens, and the key for this one session.

    Raises:
        DeviceError: there is no tracker, or no board in time; the message lists the keys that exist.
    """
    deadline = time.monotonic() + timeout_s
    with _Connection(tracker, deadline) as connection, _Connection(tracker, deadline) as observer:
        connection.command(TrackerCode.REQUEST, key, "", 1)
        while True:
            try:
                _, (host, port, session_key) = connection.answer(min(deadline, time.monotonic() + _LOOK_S))
                return (host, port), session_key
            except TimeoutError:
                state = _state(key, observer.boards(deadline + _LOOK_S))
                if time.monotonic() >= deadline:
                    raise DeviceError(
                        f"tracker {address_text(tracker)}: found {state} for {timeout_s:g} s, expected a free one; "
                        "check --key and 'lqcompile serve' on the board, or wait longer with --timeout"
                    ) from None
                waiting(state)


def _state(key: str, found: list[Boards]) -> str:
    """Why there is no board yet."""
    for boards in found:
        if boards.key == key and boards.addresses:
            return (
                f"{counted(len(boards.addresses), 'board')} with key '{key}', none free "
                f"({counted(boards.waiting, 'request')} waiting)"
            )
    keys = ", ".join(f"'{boards.key}'" for boards in found if boards.addresses)
    return f"no board with key '{key}' (keys that exist: {keys or 'none'})"


class _Connection:
    """A connection to a tracker."""

    def __init__(self, tracker: Address, deadline: float) -> None:
        self._name = f"tracker {address_text(tracker)}"
        self._received = b""
        try:
            self._socket = socket.create_connection(tracker, _left(deadline))
        except OSError as error:
            raise DeviceError(
                f"{self._name}: found {_reason(error)}, expected a tracker; start it with "
                f"'python -m tvm.exec.rpc_tracker --port {tracker[1]} --port-end {tracker[1] + 1}'"
            ) from error
        try:
            magic = struct.pack("<i", RPC_TRACKER_MAGIC)
            self._send(magic)
            self._check(self._take(4, deadline) == magic)
        except TimeoutError as error:
            self._socket.close()
            raise DeviceError(f"{self._name}: found no answer in time, expected a tracker's greeting") from error
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_error: object) -> None:
        self._socket.close()

    def command(self, *words: Any) -> None:
        """Send a command."""
        data = json.dumps(words).encode()
        self._send(struct.pack("<i", len(data)) + data)

    def answer(self, deadline: float) -> Any:
        """The next answer.

        Raises:
            TimeoutError: there is none before the deadline; it may be asked for again.
            DeviceError: the tracker is gone, or it is none.
        """
        (size,) = struct.unpack("<i", self._peek(4, deadline))
        self._check(0 < size <= _LARGEST_MESSAGE)
        return json.loads(self._take(4 + size, deadline)[4:])

    def boards(self, deadline: float) -> list[Boards]:
        """All boards, by key."""
        self.command(TrackerCode.SUMMARY)
        try:
            _, summary = self.answer(deadline)
        except TimeoutError as error:
            raise DeviceError(f"{self._name}: found no answer in time, expected its list of boards") from error
        addresses: dict[str, list[str]] = {key: [] for key in summary["queue_info"]}
        for entry in summary["server_info"]:
            host, port = entry["addr"]
            addresses.setdefault(entry["key"].removeprefix("server:"), []).append(address_text((host, port)))
        queues = {key: summary["queue_info"].get(key, {"free": 0, "pending": 0}) for key in addresses}
        return [
            Boards(
                key=key,
                addresses=tuple(sorted(addresses[key])),
                free=queues[key]["free"],
                waiting=queues[key]["pending"],
            )
            for key in sorted(addresses)
        ]

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except ConnectionError as error:
            raise self._closed() from error

    def _take(self, count: int, deadline: float) -> bytes:
        data = self._peek(count, deadline)
        self._received = self._received[count:]
        return data

    def _peek(self, count: int, deadline: float) -> bytes:
        """The next bytes, which stay to be taken: what came before a time-out is not lost."""
        while len(self._received) < count:
            self._socket.settimeout(_left(deadline))
            try:
                part = self._socket.recv(1 << 16)
            except ConnectionError as error:
                raise self._closed() from error
            if not part:
                raise self._closed()
            self._received += part
        return self._received[:count]

    def _closed(self) -> DeviceError:
        return DeviceError(f"{self._name}: found the connection closed, expected an answer; start the tracker again")

    def _check(self, right: bool) -> None:
        if not right:
            raise DeviceError(f"{self._name}: found another kind of server, expected TVM's tracker; check the address")


def _left(deadline: float) -> float:
    """Seconds until a deadline; at least a little, since zero would mean not to wait at all."""
    return max(0.001, deadline - time.monotonic())


def _reason(error: OSError) -> str:
    return "no answer in time" if isinstance(error, TimeoutError) else (error.strerror or str(error)).lower()
