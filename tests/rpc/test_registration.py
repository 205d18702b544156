"""Being on a tracker's list, against a tracker that does what the test wants."""

import json
import socket
import struct
import threading

import pytest
from tvm.rpc import base
from tvm.rpc.base import TrackerCode

from lqcompile.rpc import registration
from lqcompile.rpc.registration import Registration


class FakeTracker:
    """Takes one connection, keeps what it is told, and answers from a table of code to answer."""

    def __init__(self, magic=base.RPC_TRACKER_MAGIC):
        self.magic = magic
        self.told = []
        self.answers = {}
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        connection, _ = self.listener.accept()
        with connection:
            base.recvall(connection, 4)
            connection.sendall(struct.pack("<i", self.magic))
            while head := connection.recv(4, socket.MSG_WAITALL):
                message = json.loads(connection.recv(struct.unpack("<i", head)[0], socket.MSG_WAITALL))
                self.told.append(message)
                answer = self.answers.get(message[0], TrackerCode.SUCCESS)
                if answer is not None:
                    base.sendjson(connection, answer)

    def close(self):
        self.listener.close()


@pytest.fixture
def tracker():
    fake = FakeTracker()
    yield fake
    fake.close()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def board(tracker, lines):
    entry = Registration(tracker.address, "pi", 9090, lines.append)
    yield entry
    entry.close()


def codes(tracker):
    return [message[0] for message in tracker.told]


def test_registers_and_offers_itself(tracker, board, lines):
    board.keep(free=True)
    name = f"127.0.0.1:{tracker.address[1]}"
    assert lines == [f"registered with tracker {name} as 'pi'"]
    assert tracker.told[0] == [TrackerCode.UPDATE_INFO, {"key": "server:pi", "addr": [None, 9090]}]
    [key] = board.match_keys
    assert tracker.told[1] == [TrackerCode.PUT, "pi", [9090, key], None]
    assert key.startswith("pi:")


def test_says_nothing_new_while_its_key_waits(tracker, board):
    board.keep(free=True)
    tracker.answers[TrackerCode.GET_PENDING_MATCHKEYS] = board.match_keys[:]
    for _ in range(10):
        board.keep(free=True)
    assert codes(tracker).count(TrackerCode.PUT) == 1


def test_a_key_that_nobody_uses_is_replaced_and_still_accepted(tracker, board):
    board.keep(free=True)
    [first] = board.match_keys
    tracker.answers[TrackerCode.GET_PENDING_MATCHKEYS] = []
    for _ in range(3):
        board.keep(free=True)
    assert board.match_keys == [first]
    board.keep(free=True)
    assert board.match_keys[0] == first
    assert board.match_keys[1] == tracker.told[-1][2][1] != first


def test_a_busy_board_is_not_offered(tracker, board):
    board.keep(free=False)
    assert codes(tracker) == [TrackerCode.UPDATE_INFO, TrackerCode.PING]
    assert board.match_keys == []


def test_a_used_key_is_not_accepted_again(tracker, board):
    board.keep(free=True)
    [first] = board.match_keys
    board.used()
    board.keep(free=False)
    assert board.match_keys == []
    board.keep(free=True)
    assert first not in board.match_keys


def test_what_is_no_tracker(lines):
    other = FakeTracker(magic=7)
    entry = Registration(other.address, "pi", 9090, lines.append)
    entry.keep(free=True)
    assert lines == [
        f"tracker 127.0.0.1:{other.address[1]}: what answers there is not a tracker; trying again until it answers"
    ]
    assert entry.sockets == []
    other.close()


@pytest.mark.parametrize("answer", [-1, {"a": 1}])
def test_a_strange_answer_loses_the_connection_and_nothing_else(tracker, board, lines, answer):
    board.keep(free=True)
    tracker.answers[TrackerCode.GET_PENDING_MATCHKEYS] = answer
    board.keep(free=True)
    assert "for a list of keys; what answers there is not a tracker; trying again" in lines[-1]
    assert board.sockets == []


def test_a_tracker_that_keeps_silent(tracker, board, lines, monkeypatch):
    monkeypatch.setattr(registration, "_WAIT_S", 0.2)
    tracker.answers[TrackerCode.PUT] = None
    board.keep(free=True)
    assert "timed out; trying again until it answers" in lines[-1]


def test_an_unreachable_tracker_is_said_once(lines):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        address = gone.getsockname()
    entry = Registration(address, "pi", 9090, lines.append)
    for _ in range(3):
        entry.keep(free=True)
    assert lines == [f"tracker 127.0.0.1:{address[1]}: connection refused; trying again until it answers"]
