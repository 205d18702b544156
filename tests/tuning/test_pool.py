"""A pool of boards: work is shared, a lost board's work is done elsewhere, and an empty pool is an error."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest
from tunings import KEY, TARGET

from lqcompile.errors import DeviceError, TargetError, TuningError
from lqcompile.tuning import pool as pool_module
from lqcompile.tuning.boards import Boards, board_key, open_pool
from lqcompile.tuning.pool import BoardPool
from lqcompile.tuning.processes import NowhereError


class FakeDevice:
    """A session on a board that is not there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False
        self.info = {
            "cpu": "name",
            "cpu_model": KEY.cpu,
            "features": list(KEY.features),
            "machine": "x86_64",
            "system": "linux",
        }

    def __str__(self) -> str:
        return f"board {self.name}"

    def close(self) -> None:
        self.closed = True


class Shelf:
    """Boards that can be taken, given back and lost."""

    def __init__(self, *names: str) -> None:
        self.free = list(names)
        self.lock = threading.Lock()
        self.lines: list[str] = []
        self.log: list[tuple[str, Any]] = []

    def connect(self) -> Any:
        with self.lock:
            if not self.free:
                raise DeviceError("tracker: found no free board")
            return FakeDevice(self.free.pop(0))

    def pool(self, run: Any, boards: int = 2, patience_s: float = 0.3) -> BoardPool:
        def logged(work: Any, site: Any) -> Any:
            with self.lock:
                self.log.append((site.device.name, work))
            return run(work, site.device.name)

        return BoardPool(self.connect, boards, patience_s=patience_s, report=self.lines.append, run=logged)


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "RETRY_S", 0.01)


def submitted(pool: BoardPool, count: int) -> list[Future[Any]]:
    works: list[Any] = list(range(count))
    return [pool.submit(work) for work in works]


def test_two_boards_work_at_the_same_time() -> None:
    together = threading.Barrier(2, timeout=30)
    shelf = Shelf("a", "b")
    pool = shelf.pool(lambda work, _name: (together.wait() and None) or work)
    assert [future.result(30) for future in submitted(pool, 6)] == list(range(6))
    assert pool.names() == ["board a", "board b"]
    assert sorted(shelf.lines) == ["board a joins", "board b joins"]
    pool.close()


def test_what_a_lost_board_had_is_done_elsewhere() -> None:
    shelf = Shelf("a", "b")

    def run(work: Any, name: str) -> Any:
        if name == "a":
            raise DeviceError("board a: found the session broken")
        time.sleep(0.01)
        return work

    pool = shelf.pool(run)
    assert [future.result(30) for future in submitted(pool, 5)] == list(range(5))
    assert pool.names() == ["board b"]
    lost = [work for name, work in shelf.log if name == "a"]
    assert len(lost) == 1 and [name for name, work in shelf.log if work == lost[0]] == ["a", "b"]
    assert "board a lost (board a: found the session broken); its candidate is measured elsewhere" in shelf.lines
    shelf.free.append("c")
    pool.close()


def test_a_candidate_that_breaks_boards_is_given_up() -> None:
    shelf = Shelf("a", "b", "c", "d")

    def run(work: Any, name: str) -> Any:
        if work == 1:
            raise DeviceError(f"{name} broke")
        return work

    pool = shelf.pool(run)
    results = submitted(pool, 3)
    assert [results[0].result(30), results[2].result(30)] == [0, 2]
    with pytest.raises(TuningError, match=r"^it broke 2 sessions on boards, the last: \w broke$"):
        results[1].result(30)
    pool.close()


def test_an_empty_pool_is_an_error_after_a_while() -> None:
    pool = Shelf().pool(lambda work, _name: work)
    message = (
        r"^boards: found none for 0.3 s \(tracker: found no free board\), expected at least one; start one and run the "
        r"same command again, which goes on where this one stopped$"
    )
    for future in submitted(pool, 3):
        with pytest.raises(NowhereError, match=message):
            future.result(30)
    pool.close()


def test_an_error_of_our_own_reaches_who_asked() -> None:
    def run(work: Any, _name: str) -> Any:
        raise KeyError(work)

    pool = Shelf("a").pool(run, boards=1)
    with pytest.raises(KeyError):
        submitted(pool, 1)[0].result(30)
    pool.close()


def test_boards_with_another_processor_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    other = FakeDevice("other")
    other.info["cpu_model"] = "Another CPU"
    lines: list[str] = []
    monkeypatch.setattr(Boards, "connect", lambda self, wait_s: other)
    pool = open_pool(Boards(rpc=("h", 1), timeout_s=0.2), TARGET, KEY, lines.append)
    work: Any = 1
    with pytest.raises(NowhereError, match=f"board other: found another processor, expected {KEY.cpu}; give it"):
        pool.submit(work).result(30)
    pool.close()
    assert lines[0] == f"board other left out: measured on Another CPU, not {KEY.cpu}" and other.closed


def test_boards_that_cannot_run_the_target_are_refused() -> None:
    device: Any = FakeDevice("old")
    assert board_key(device, TARGET) == (TARGET, KEY)
    device.info["features"] = ["sse2"]
    message = (
        r"^target 'x86-avx2': found board old \(name\) to lack avx2, .*, expected boards that can run it; choose "
        r"another --target, or the --key of other boards$"
    )
    with pytest.raises(TargetError, match=message):
        board_key(device, TARGET)
