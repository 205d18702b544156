"""A board's entry in the list of a tracker, kept up while trackers come and go.

A tracker (``python -m tvm.exec.rpc_tracker``) hands boards out to hosts. It knows a free board by a key of its own for
each session (the match key), which it tells to one host alone. The protocol is that of ``tvm/rpc/server.py``, 0.27.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Any

from tvm.rpc import base

PERIOD_S = 2.0
"""How often `Registration.keep` should be called."""

_WAIT_S = 3.0
_UNUSED_PERIODS = 3
"""A match key that was handed out and not used for so many periods is replaced."""


class Registration:
    """Keeps a board registered.

    Args:
        tracker: host name and port of the tracker.
        key: what hosts ask for, such as ``rpi4``.
        port: that the board serves on.
        log: called with a line when something happens.
    """

    def __init__(self, tracker: tuple[str, int], key: str, port: int, log: Callable[[str], None]) -> None:
        self.tracker, self.key, self.port, self.log = tracker, key, port, log
        self.match_keys: list[str] = []
        self._connection: socket.socket | None = None
        self._unused_periods = 0
        self._complained = False

    def keep(self, *, free: bool) -> None:
        """Connect where that is lost, and offer the board where it is free; what fails is tried again by the next call.

        Args:
            free: the board waits for a host.
        """
        try:
            if self._connection is None:
                self._connect()
            if not free:
                self._ask([base.TrackerCode.PING])
            elif self._is_wanted():
                self._offer()
        except (OSError, ValueError, struct.error) as error:
            self._disconnect()
            if not self._complained:
                reason = (getattr(error, "strerror", None) or str(error)).lower()
                self.log(f"tracker {self._name}: {reason}; trying again until it answers")
            self._complained = True

    def used(self) -> None:
        """The board was handed out: the next one gets another match key."""
        self.match_keys.clear()

    def close(self) -> None:
        """Leave the tracker's list."""
        self._disconnect()

    @property
    def sockets(self) -> list[socket.socket]:
        """Open sockets, for a forked process to close."""
        return [] if self._connection is None else [self._connection]

    @property
    def _name(self) -> str:
        return f"{self.tracker[0]}:{self.tracker[1]}"

    def _connect(self) -> None:
        self._connection = socket.create_connection(self.tracker, timeout=_WAIT_S)
        self._connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
        if struct.unpack("<i", base.recvall(self._connection, 4))[0] != base.RPC_TRACKER_MAGIC:
            raise ValueError("what answers there is not a tracker")
        self.match_keys.clear()
        self._ask([base.TrackerCode.UPDATE_INFO, {"key": f"server:{self.key}", "addr": (None, self.port)}])
        self.log(f"registered with tracker {self._name} as '{self.key}'")
        self._complained = False

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _is_wanted(self) -> bool:
        """Whether the tracker has no match key of this board that a host can be waiting to use."""
        if not self.match_keys:
            return True
        pending = self._ask([base.TrackerCode.GET_PENDING_MATCHKEYS])
        if not isinstance(pending, list):
            raise ValueError(f"found {pending!r:.40} for a list of keys; what answers there is not a tracker")
        handed_out = self.match_keys[-1] not in pending
        self._unused_periods = self._unused_periods + 1 if handed_out else 0
        return self._unused_periods > _UNUSED_PERIODS

    def _offer(self) -> None:
        # A host that was slow may still come with the key before; no other is remembered.
        self.match_keys = [*self.match_keys[-1:], base.random_key(self.key, cmap=set(self.match_keys))]
        self._ask([base.TrackerCode.PUT, self.key, (self.port, self.match_keys[-1]), None])
        self._unused_periods = 0

    def _ask(self, message: list[Any]) -> Any:
        base.sendjson(self._connection, message)
        return base.recvjson(self._connection)
