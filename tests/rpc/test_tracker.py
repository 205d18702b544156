"""Trackers: TVM's own, and others that keep silent, hang up or are something else."""

import json
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress

import loopback
import pytest
from tvm.rpc import base
from tvm.rpc.base import RPC_TRACKER_MAGIC, TrackerCode

from lqcompile.errors import DeviceError
from lqcompile.rpc.addresses import parse_address
from lqcompile.rpc.tracker import Boards, address_text, list_boards, request_board

WAIT_S = 30.0

MAGIC = struct.pack("<i", RPC_TRACKER_MAGIC)


@contextmanager
def fake(behave):
    """A server whose connections are each handled by `behave` in a thread; gives its address."""
    with socket.create_server((loopback.HOST, 0)) as listener:

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        def handle(connection):
            with connection, suppress(OSError):
                behave(connection)

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(WAIT_S)


def message(content):
    data = json.dumps(content).encode()
    return struct.pack("<i", len(data)) + data


def wait_for_close(connection):
    connection.settimeout(WAIT_S)
    while connection.recv(1000):
        pass


@pytest.mark.parametrize("text", ["127.0.0.1:9190", "[::1]:9190", "raspberrypi.local:9090"])
def test_addresses_as_they_were_written(text):
    assert address_text(parse_address(text)) == text


def test_no_tracker():
    with socket.create_server((loopback.HOST, 0)) as probe:
        address = probe.getsockname()
    pattern = (
        rf"^tracker 127.0.0.1:{address[1]}: found connection refused, expected a tracker; start it with 'python -m"
    )
    with pytest.raises(DeviceError, match=pattern):
        list_boards(address, WAIT_S)


def test_a_tracker_that_keeps_silent():
    start = time.monotonic()
    message = "found no answer in time, expected a tracker's greeting"
    with fake(wait_for_close) as address, pytest.raises(DeviceError, match=message):
        list_boards(address, 0.3)
    assert time.monotonic() - start < 10


def test_a_tracker_that_greets_and_keeps_silent():
    def behave(connection):
        connection.sendall(MAGIC)
        wait_for_close(connection)

    with fake(behave) as address, pytest.raises(DeviceError, match=r"found no answer in time, expected its list of"):
        list_boards(address, 0.3)


@pytest.mark.parametrize(
    "greeting", [b"HTTP/1.1 400 Bad Request\r\n", MAGIC + struct.pack("<i", -5), MAGIC + b"\xff" * 9]
)
def test_another_kind_of_server(greeting):
    def behave(connection):
        connection.sendall(greeting)
        wait_for_close(connection)

    with fake(behave) as address, pytest.raises(DeviceError, match=r"found another kind of server, expected TVM's"):
        list_boards(address, WAIT_S)


def test_a_tracker_that_hangs_up():
    message = "found the connection closed, expected an answer; start the tracker again"
    with fake(lambda connection: connection.recv(4)) as address, pytest.raises(DeviceError, match=message):
        list_boards(address, WAIT_S)


def test_an_answer_in_many_pieces():
    summary = {
        "queue_info": {"a": {"free": 1, "pending": 0}, "gone": {"free": 0, "pending": 3}},
        "server_info": [
            {"key": "server:a", "addr": ["10.0.0.2", 9090]},
            {"key": "server:a", "addr": ["fe80::1", 9091]},
            {"key": "server:new", "addr": ["10.0.0.3", 9090]},
        ],
    }

    def behave(connection):
        for byte in MAGIC + message([0, summary]):
            connection.sendall(bytes([byte]))
        wait_for_close(connection)

    with fake(behave) as address:
        found = list_boards(address, WAIT_S)
    assert found == [
        Boards(key="a", addresses=("10.0.0.2:9090", "[fe80::1]:9091"), free=1, waiting=0),
        Boards(key="gone", addresses=(), free=0, waiting=3),
        Boards(key="new", addresses=("10.0.0.3:9090",), free=0, waiting=0),
    ]
    assert [boards.to_json()["busy"] for boards in found] == [1, 0, 1]


def test_an_answer_that_comes_late_and_in_pieces():
    """A look at the list of keys between two pieces of the answer loses neither."""
    empty = message([0, {"queue_info": {}, "server_info": []}])

    def behave(connection):
        base.recvall(connection, len(MAGIC))
        connection.sendall(MAGIC)
        while base.recvjson(connection)[0] != TrackerCode.REQUEST:
            connection.sendall(empty)
        answer = message([0, ["10.0.0.2", 9090, "rpi4:0.5"]])
        connection.sendall(answer[:2])
        time.sleep(1.5)
        connection.sendall(answer[2:])
        wait_for_close(connection)

    states = []
    with fake(behave) as address:
        assert request_board(address, "rpi4", WAIT_S, states.append) == (("10.0.0.2", 9090), "rpi4:0.5")
    assert states == ["no board with key 'rpi4' (keys that exist: none)"]


def test_boards_of_a_real_tracker(tmp_path):
    with loopback.tracker(tmp_path) as tracker:
        assert list_boards(tracker.address, WAIT_S) == []
        with loopback.server(tmp_path, key="rpi4", tracker=tracker.port) as board:
            deadline = time.monotonic() + WAIT_S
            while [boards.free for boards in list_boards(tracker.address, WAIT_S)] != [1]:
                assert time.monotonic() < deadline, board.log.read_text()
                time.sleep(0.05)
            (found,) = list_boards(tracker.address, WAIT_S)
            assert found == Boards(key="rpi4", addresses=(board.name,), free=1, waiting=0)


def test_a_tracker_that_goes_away_while_a_board_is_waited_for(tmp_path):
    with loopback.tracker(tmp_path) as tracker:
        states = []

        def kill_it(state):
            states.append(state)
            tracker.kill()

        with pytest.raises(DeviceError, match=rf"^tracker {re.escape(tracker.name)}: found the connection closed"):
            request_board(tracker.address, "rpi4", WAIT_S, kill_it)
    assert len(states) == 1
