"""A pool of boards: each runs its own candidates, and what a lost board had is given to another one."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from lqcompile.errors import DeviceError, TuningError
from lqcompile.kernels import Job, Steps
from lqcompile.rpc.device import Device
from lqcompile.rpc.kernels import Board
from lqcompile.tuning.processes import NowhereError
from lqcompile.tuning.work import Work

MOST_ATTEMPTS = 2
"""Boards on which a candidate may fail with a lost connection, before it counts as one that crashes them."""

RETRY_S = 2.0
"""Pause before a lost board is asked for again."""


class BoardSite:
    """A site: a session on a board."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._board = Board(device)

    def open(self, job: Job) -> Steps:
        """Upload compiled candidates and load them."""
        return self._board.open(job)

    def state(self) -> dict[str, Any]:
        """The state of the board."""
        return self.device.call("info")[0]


@dataclass(eq=False)
class _Item:
    work: Work
    future: Future[Any] = field(default_factory=Future)
    attempts: int = 0


class BoardPool:
    """Runs work on several boards at once.

    Args:
        connect: gives a session on a free board that can run the candidates, or raises `DeviceError` after a while.
        boards: sessions to hold.
        patience_s: after so long without any board tuning ends.
        report: called with what happens to boards, in words.
        run: does the work on a site; tests put another clock in.
    """

    def __init__(
        self,
        connect: Callable[[], Device],
        boards: int,
        *,
        patience_s: float,
        report: Callable[[str], None],
        run: Callable[[Work, BoardSite], Any] = lambda work, site: work.run(site),
    ) -> None:
        self._connect, self._patience_s, self._report, self._run = connect, patience_s, report, run
        self._items: queue.Queue[_Item | None] = queue.Queue()
        self._lock = threading.Lock()
        self._held: dict[int, str] = {}
        self._last_seen = time.monotonic()
        self._closed = False
        self._given_up: DeviceError | None = None
        self._threads = [threading.Thread(target=self._serve, args=[number], daemon=True) for number in range(boards)]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Work) -> Future[Any]:
        """Hand work to whichever board is free first."""
        item = _Item(work)
        self._items.put(item)
        return item.future

    def names(self) -> list[str]:
        """Boards that are held now."""
        with self._lock:
            return sorted(self._held.values())

    def close(self) -> None:
        """Give the boards back; nothing may wait for a result any more."""
        self._closed = True
        for _ in self._threads:
            self._items.put(None)
        for thread in self._threads:
            thread.join(self._patience_s)

    def _serve(self, number: int) -> None:
        """One thread: one board at a time; work is taken only when there is one."""
        device: Device | None = None
        while True:
            device = device or self._obtain(number)
            item = self._items.get()
            if item is None:
                break
            if device is None:
                self._refuse(item)
                continue
            try:
                self._finish(item, self._run(item.work, BoardSite(device)))
            except DeviceError as error:
                self._lose(number, device, item, error)
                device = None
            except Exception as error:  # noqa: BLE001 - it is raised again where the result is asked for
                item.future.set_exception(error)
        if device is not None:
            device.close()

    def _obtain(self, number: int) -> Device | None:
        """A session, when there is a board again; None if none came for too long."""
        while not self._closed and self._given_up is None:
            try:
                device = self._connect()
            except DeviceError as error:
                with self._lock:
                    alone = not self._held and time.monotonic() - self._last_seen > self._patience_s
                if alone:
                    self._given_up = error
                    break
                time.sleep(RETRY_S)
                continue
            with self._lock:
                self._held[number] = str(device)
                self._last_seen = time.monotonic()
            self._report(f"{device} joins")
            return device
        return None

    def _finish(self, item: _Item, found: Any) -> None:
        with self._lock:
            self._last_seen = time.monotonic()
        item.future.set_result(found)

    def _lose(self, number: int, device: Device, item: _Item, error: DeviceError) -> None:
        """The session broke: the board died, or the candidate crashed it."""
        with self._lock:
            self._held.pop(number, None)
            self._last_seen = time.monotonic()
        device.close()
        item.attempts += 1
        if item.attempts >= MOST_ATTEMPTS:
            item.future.set_exception(TuningError(f"it broke {item.attempts} sessions on boards, the last: {error}"))
            return
        self._report(f"{device} lost ({error}); its candidate is measured elsewhere")
        self._items.put(item)

    def _refuse(self, item: _Item) -> None:
        """There is no board any more."""
        reason = f" ({self._given_up})" if self._given_up is not None else ""
        item.future.set_exception(
            NowhereError(
                f"boards: found none for {self._patience_s:g} s{reason}, expected at least one; start one and "
                "run the same command again, which goes on where this one stopped"
            )
        )
