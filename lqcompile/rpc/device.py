"""A board, seen from the host: connecting, uploading, calling; every wait has a deadline."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np
from tvm import rpc
from tvm.error import RPCError

from lqcompile import errors
from lqcompile.errors import DeviceError
from lqcompile.rpc.board import PREFIX, PROTOCOL
from lqcompile.rpc.message import Array, pack, unpack
from lqcompile.rpc.tracker import Address, address_text, request_board

TIMEOUT_S = 60.0
"""Longest wait for one answer, unless the caller says otherwise."""

SESSION_S = 3600.0
"""After so long TVM's server ends a session, so that a host that vanished does not keep the board."""

Progress = Callable[[str, float], None]

_GRACE_S = 5.0
"""The board gives a call up so much later than the host, which then knows that the time was too short."""

_CLOSE_S = 1.0
"""A session that does not end within this time ends later, by itself."""

_CHUNK_BYTES = 1 << 20
"""Uploads go in pieces of this size, so that progress shows and a deadline is that of a piece."""

_MEANINGS = {
    "cannot obtain address of": "found no machine of that name, expected one; check the address",
    "Connect to": "found no server, expected one; start 'lqcompile serve' there, or check the address",
    "cannot find server that matches key": (
        "found a server with another key, expected that of --key; a server that is registered with a tracker is "
        "reached by --tracker and --key"
    ),
    "is not TVM RPC server": "found another kind of server, expected 'lqcompile serve'; check the address",
}
"""What TVM's client says (src/runtime/rpc/rpc_socket_impl.cc, 0.27) to what that means."""


class Device:
    """A session on a board; a context manager.

    Args:
        address: of the board.
        key: for this session, or that the board was started with; may be empty.
        timeout_s: longest wait for one answer.
        session_s: longest session.

    Raises:
        DeviceError: the board cannot be reached, does not answer in time or is no board of lqcompile.
    """

    def __init__(
        self, address: Address, key: str = "", *, timeout_s: float = TIMEOUT_S, session_s: float = SESSION_S
    ) -> None:
        self.address = address
        self.timeout_s = timeout_s
        self._session_s = session_s
        self._line = _Line(lambda: rpc.connect(*address, key, session_timeout=session_s))
        self._lost = False
        try:
            self.info, _ = self.call("info")
            if self.info["protocol"] != PROTOCOL:
                raise DeviceError(
                    f"{self}: found protocol {self.info['protocol']}, expected {PROTOCOL}; install the same version of "
                    "lqcompile on the board and here"
                )
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        return f"board {address_text(self.address)}"

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; the board is free then."""
        self._line.close()

    def call(
        self, function: str, values: Mapping[str, Any] | None = None, arrays: Mapping[str, Array] | None = None
    ) -> tuple[dict[str, Any], dict[str, Array]]:
        """Call a function of `lqcompile.rpc.board`.

        Args:
            function: its name.
            values: what JSON can hold.
            arrays: name to array.

        Raises:
            DeviceError: there is no answer in time, or the session broke.
            LQCompileError: what the board refuses, of the same kind as there.
        """
        if self._lost:
            raise DeviceError(f"{self}: found a session that has ended, expected an open one; connect again")
        message = pack({**(values or {}), "limit_s": self.timeout_s + _GRACE_S}, arrays or {})
        future = self._line.call(PREFIX + function, message)
        try:
            answer, results = unpack(future.result(self.timeout_s))
        except BaseException as error:
            self._lost = True
            if isinstance(error, Exception):
                raise DeviceError(f"{self}: {self._explain(error, function)}") from error
            raise
        if "error" in answer:
            raise getattr(errors, answer["kind"])(f"{self}: {answer['error']}")
        return answer, results

    def upload(self, file: str, data: bytes, progress: Progress | None = None) -> None:
        """Write a file into the session's folder on the board, and check that it arrived.

        Raises:
            DeviceError: what arrived is not what was sent, or as `call`.
        """
        for offset in range(0, len(data), _CHUNK_BYTES):
            piece = data[offset : offset + _CHUNK_BYTES]
            self.call("write", {"file": file, "offset": offset}, {"data": np.frombuffer(piece, np.uint8)})
            if progress is not None:
                progress(f"uploading {file}", min(1.0, (offset + len(piece)) / len(data)))
        arrived, _ = self.call("digest", {"file": file})
        if arrived["sha256"] != hashlib.sha256(data).hexdigest():
            raise DeviceError(
                f"{self}: found {arrived['bytes']} bytes of '{file}' after its upload, expected the {len(data)} that "
                "were sent; check the room on the board's disk and try again"
            )

    def _explain(self, error: Exception, function: str) -> str:
        """What went wrong, expected and what to do, from what TVM says."""
        text = " ".join(str(error).split())
        if isinstance(error, TimeoutError) and "session has expired" in text:
            return f"found the session at its limit of {self._session_s:g} s, expected it to end before; connect again"
        if isinstance(error, TimeoutError):
            return (
                f"found no answer to '{function}' within {self.timeout_s:g} s, expected one; it may be busy with "
                "another session: wait, or give more time with --timeout"
            )
        for words, meaning in _MEANINGS.items():
            if words in text:
                return meaning
        if isinstance(error, AttributeError):
            return "found TVM's plain server, expected 'lqcompile serve'; start that on the board"
        if isinstance(error, RPCError):
            reason = text.removeprefix("RPCError: Error caught from RPC call: ")
            return f"found an error in '{function}', expected a result: {reason}; report this as a bug"
        if function == "info":
            return (
                "found the connection closed before any answer, expected 'lqcompile serve'; it was stopped, or another "
                "kind of server listens there: check the address"
            )
        return (
            f"found the session broken during '{function}', expected an answer; the server was stopped, the code "
            f"crashed or the network failed: see what 'lqcompile serve' says there ({text[:200]})"
        )


def request_device(
    tracker: Address,
    key: str,
    *,
    timeout_s: float = TIMEOUT_S,
    session_s: float = SESSION_S,
    waiting: Callable[[str], None] = lambda _state: None,
) -> Device:
    """Wait for a free board of a tracker, and open a session on it.

    Args:
        tracker: where it listens.
        key: that the board registered with.
        timeout_s: longest wait for the board, and for each of its answers.
        session_s: longest session.
        waiting: called about once a second with what is waited for.

    Raises:
        DeviceError: there is no board in time, or as `Device`.
    """
    address, session_key = request_board(tracker, key, timeout_s, waiting)
    return Device(address, session_key, timeout_s=timeout_s, session_s=session_s)


class _Line(threading.Thread):
    """Makes the calls of a session in a thread of its own.

    A call into TVM cannot be given up; waiting for a thread can. TVM's objects of the session stay in this thread,
    because to let go of one is a call as well. After a deadline the thread stays behind until the connection ends.
    """

    def __init__(self, connect: Callable[[], Any]) -> None:
        super().__init__(name="lqcompile-device", daemon=True)
        self._connect = connect
        self._calls: queue.SimpleQueue[tuple[Future[bytes], str, bytes] | None] = queue.SimpleQueue()
        self.start()

    def call(self, function: str, message: bytes) -> Future[bytes]:
        """Ask for a call; the answer comes later."""
        future: Future[bytes] = Future()
        self._calls.put((future, function, message))
        return future

    def close(self) -> None:
        """End the session, after the call that may be under way."""
        self._calls.put(None)
        self.join(_CLOSE_S)

    def run(self) -> None:
        """The thread itself."""
        session = None
        functions: dict[str, Any] = {}
        while (item := self._calls.get()) is not None:
            future, name, message = item
            try:
                if session is None:
                    session = self._connect()
                if name not in functions:
                    functions[name] = session.get_function(name)
                future.set_result(bytes(functions[name](message)))
            except Exception as error:  # noqa: BLE001 - it is raised again where the result is asked for
                # The traceback would keep this frame and so TVM's objects alive in the thread that asked.
                future.set_exception(error.with_traceback(None))
