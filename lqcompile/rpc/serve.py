"""``lqcompile serve``: makes a board available to hosts that build, verify and benchmark, with TVM's runtime alone.

Sessions run one after another, each in a process of its own (`lqcompile.rpc.session`): a board that measures should do
nothing else, and a crash ends that session only. There is no authentication in TVM's protocol, and what is sent is
run: the address is this machine's own (loopback) unless asked for otherwise.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import ipaddress
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from lqcompile.errors import DeviceError
from lqcompile.rpc import board as board
from lqcompile.rpc import session
from lqcompile.rpc.registration import PERIOD_S, Registration
from lqcompile.rpc.tracker import address_text

Address = tuple[str, int]

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP is the end of the SSH session that the server was started in."""


def serve(address: Address, *, key: str = "", tracker: Address | None = None, log: Callable[[str], None]) -> None:
    """Serve hosts until Ctrl-C, SIGTERM, or the end of the terminal.

    Args:
        address: host name and port to listen on; port 0 takes a free one.
        key: what hosts ask the tracker for; without a tracker, what they must present.
        tracker: host name and port of a tracker, or None.
        log: called with a line for each event.

    Raises:
        DeviceError: the address cannot be served on, the key is no word, or a tracker is given without a key or without
            a way for its hosts to get here.
    """
    if key and key.split() != [key]:
        raise DeviceError(f"serve: found key {key!r}, expected one word; add --key rpi4")
    if tracker is not None:
        _check_tracker(address, key, tracker)
    with _listen(address) as listener, _stop_requests() as stopped:
        port = listener.getsockname()[1]
        log(f"serving on {address_text((address[0], port))}")
        if not _is_loopback(address[0]):
            log("anyone who reaches this address can run code here: there is no authentication")
        registration = None if tracker is None else Registration(tracker, key, port, log)
        try:
            _Server(listener, stopped, key, registration, log).run()
        finally:
            if registration is not None:
                registration.close()
        log("stopped")


class Ready(enum.Enum):
    """What came first."""

    ITEM = enum.auto()
    DEADLINE = enum.auto()
    LEFT = enum.auto()
    STOP = enum.auto()


class _Server:
    def __init__(
        self,
        listener: socket.socket,
        stopped: socket.socket,
        key: str,
        registration: Registration | None,
        log: Callable[[str], None],
    ) -> None:
        self.listener, self.stopped, self.key = listener, stopped, key
        self.registration, self.log = registration, log

    def run(self) -> None:
        while self._wait_for(self.listener) is not Ready.STOP:
            connection, peer = self.listener.accept()
            name = address_text(peer[:2])
            keys = [self.key] if self.registration is None else self.registration.match_keys
            try:
                client = session.admit(connection, keys, self.key)
            except session.RefusedError as reason:
                self.log(f"refused {name}: {reason}")
                continue
            with client.connection:
                self.log(f"session of {name} began")
                try:
                    outcome = self._session(client)
                except OSError as error:
                    outcome = f"could not go on here: {error}"
                self.log(f"session of {name} {outcome}")

    def _session(self, client: session.Client) -> str:
        """Serve a client; gives how that ended, in words."""
        if self.registration is not None:
            self.registration.used()
        sockets = [self.listener, self.stopped, *(self.registration.sockets if self.registration else [])]
        deadline = None if client.limit_s is None else time.monotonic() + client.limit_s
        with _work_folder() as folder:
            process = session.start(client, folder, sockets)
            try:
                ready = self._wait_for(process.sentinel, client=client, deadline=deadline)
                if ready is Ready.DEADLINE:
                    session.refuse_more_time(client)
            finally:
                session.stop(process)
        if ready is Ready.DEADLINE:
            return f"took longer than its {client.limit_s:g} s and was ended"
        if ready is Ready.LEFT:
            return "was left by its host and ended"
        return "was stopped with the server" if ready is Ready.STOP else _how_it_ended(process)

    def _wait_for(
        self, item: socket.socket | int, *, client: session.Client | None = None, deadline: float | None = None
    ) -> Ready:
        """Wait until something is ready, and keep the board registered meanwhile: as free where there is no client."""
        times_gone = 0
        while True:
            if self.registration is not None:
                self.registration.keep(free=client is None)
            left = PERIOD_S if deadline is None else min(PERIOD_S, deadline - time.monotonic())
            ready = wait([item, self.stopped], max(left, 0.0))
            if self.stopped in ready:
                return Ready.STOP
            if item in ready:
                return Ready.ITEM
            if deadline is not None and time.monotonic() >= deadline:
                return Ready.DEADLINE
            # A session ends by itself when its host leaves, but for one that is in a kernel that does not return.
            times_gone = times_gone + 1 if client is not None and session.is_gone(client) else 0
            if times_gone > 1:
                return Ready.LEFT


def _how_it_ended(process: BaseProcess) -> str:
    code = process.exitcode or 0
    if code < 0:
        return f"crashed ({signal.Signals(-code).name}) in the code that it ran; ready for the next"
    if code == session.BROKEN_OFF:
        return "broke off: the connection was lost, or what came was not TVM's protocol"
    return "ended" if code == 0 else f"failed with exit code {code}; ready for the next"


def _check_tracker(address: Address, key: str, tracker: Address) -> None:
    if not key:
        raise DeviceError("serve: found --tracker without --key, expected what hosts ask it for; add --key rpi4")
    if _is_loopback(address[0]) and not _is_loopback(tracker[0]):
        raise DeviceError(
            f"serve: found tracker {tracker[0]} on another machine, whose hosts cannot reach {address[0]} here; "
            "serve on --host 0.0.0.0 in a network that you trust, or reach the tracker through an SSH tunnel"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(address: Address) -> socket.socket:
    host, port = address
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=16)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise DeviceError(
                f"serve: found port {port} of {host} in use, expected a free one; choose another with --port"
            ) from error
        reason = (error.strerror or str(error)).lower()
        raise DeviceError(f"serve: cannot serve on {host}:{port}: {reason}; choose another --host or --port") from error


@contextlib.contextmanager
def _stop_requests() -> Iterator[socket.socket]:
    """A socket that is ready to be read once the process was asked to stop."""
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    # What is ignored stays ignored: nohup wants it so.
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    handlers = {number: signal.signal(number, lambda *_: None) for number in heeded}
    before = signal.set_wakeup_fd(writer.fileno())
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        reader.close()
        writer.close()


@contextlib.contextmanager
def _work_folder() -> Iterator[Path]:
    """A folder for the files of one session; a session that crashed may have left anything in it."""
    folder = Path(tempfile.mkdtemp(prefix="lqcompile-session-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
