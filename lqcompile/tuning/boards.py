"""Boards to tune on: the key of their records, and a pool of sessions on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lqcompile.errors import DeviceError, TargetError
from lqcompile.records.key import Key, make_key
from lqcompile.rpc.bench import refuse_emulator
from lqcompile.rpc.device import Device, request_device
from lqcompile.rpc.kernels import Board
from lqcompile.rpc.tracker import Address, list_boards
from lqcompile.target import Target, expand
from lqcompile.tuning.pool import BoardPool

JOIN_S = 5.0
"""Longest wait for one board to join a pool, before it is asked for again."""


@dataclass(frozen=True, kw_only=True)
class Boards:
    """Where boards are.

    Args:
        tracker: of boards with a key; None for one board.
        rpc: of that board.
        key: that they serve under.
        timeout_s: longest wait for a board, and for each of its answers.
    """

    tracker: Address | None = None
    rpc: Address | None = None
    key: str = ""
    timeout_s: float

    def connect(self, wait_s: float) -> Device:
        """A session on one of them.

        Raises:
            DeviceError: none is free in time.
        """
        if self.tracker is not None:
            device = request_device(self.tracker, self.key, timeout_s=wait_s)
            device.timeout_s = self.timeout_s
            return device
        if self.rpc is None:
            raise TypeError("boards need an address")
        return Device(self.rpc, self.key, timeout_s=self.timeout_s)

    def count(self) -> int:
        """How many the tracker knows; at least one."""
        if self.tracker is None:
            return 1
        found = [entry for entry in list_boards(self.tracker, self.timeout_s) if entry.key == self.key]
        return max(1, sum(len(entry.addresses) for entry in found))


def board_key(device: Device, target: Target) -> tuple[Target, Key]:
    """The most demanding variant of a target that a board can run, and the key of its records.

    Raises:
        TargetError: it can run none.
    """
    board = Board(device)
    fitting = [variant for variant in expand(target) if not board.missing(variant)]
    if not fitting:
        raise TargetError(
            f"target {target.name!r}: found {device} ({device.info['cpu']}) to lack "
            f"{', '.join(board.missing(expand(target)[0]))}, expected boards that can run it; choose another --target, "
            "or the --key of other boards"
        )
    return fitting[-1], make_key(fitting[-1], device.info["cpu_model"], device.info["features"])


def probe(boards: Boards, target: Target, refuse: Callable[[Device], None] = refuse_emulator) -> tuple[Target, Key]:
    """What the boards are, by a look at one of them.

    Args:
        boards: to look at.
        target: to tune for.
        refuse: raises where times on a device mean nothing.

    Raises:
        DeviceError: there is no board, or it is an emulator.
        TargetError: it cannot run the target.
    """
    with boards.connect(boards.timeout_s) as device:
        refuse(device)
        return board_key(device, target)


def open_pool(boards: Boards, target: Target, key: Key, report: Callable[[str], None]) -> BoardPool:
    """Sessions on all boards of the same kind.

    Args:
        boards: to use.
        target: without variants.
        key: of the records: boards with another processor are left out.
        report: called with what happens to boards, in words.
    """

    def connect() -> Device:
        device = boards.connect(min(JOIN_S, boards.timeout_s))
        try:
            found = make_key(target, device.info["cpu_model"], device.info["features"])
        except BaseException:
            device.close()
            raise
        reason = found.difference(key)
        if reason is not None:
            device.close()
            report(f"{device} left out: {reason}")
            raise DeviceError(f"{device}: found another processor, expected {key.cpu}; give it a --key of its own")
        return device

    return BoardPool(connect, boards.count(), patience_s=boards.timeout_s, report=report)
