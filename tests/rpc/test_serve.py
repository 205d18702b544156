"""A board that serves: on this machine, and on the emulated one with the same tests."""

import contextlib
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import loopback
import psutil
import pytest
from board import FOLDER, ROOT, Board, serving
from tvm import rpc
from tvm.rpc import base
from tvm.rpc.client import TrackerSession

from lqcompile.errors import DeviceError
from lqcompile.rpc import session
from lqcompile.rpc.serve import _Server, serve

HOST = "127.0.0.1"

BROKEN = r"kShutdown|reset by peer|Broken pipe"
"""What TVM's client says when the session is gone."""

KERNELS = """
int __tvm_ffi_crash(void *self, void *args, int count, void *result) { *(volatile int *)8 = 1; return 0; }
int __tvm_ffi_spin(void *self, void *args, int count, void *result) { for (;;) { __asm__ volatile(""); } }
int __tvm_ffi_nothing(void *self, void *args, int count, void *result) { return 0; }
"""
"""Functions as TVM calls them (include/tvm/ffi/c_api.h, TVMFFISafeCallType)."""


class Here:
    """This machine as a board."""

    machine = platform.machine()

    def serve(self, *options):
        return serving([sys.executable, "-m", "lqcompile", "serve"], os.environ | {"PYTHONPATH": str(ROOT)}, *options)


class Emulated(Board):
    machine = "aarch64"


@pytest.fixture(scope="module", params=[Here, Emulated], ids=["here", "emulated"])
def machine(request):
    return request.param()


@pytest.fixture(scope="module", params=[Emulated if FOLDER.exists() else Here], ids=lambda kind: kind.__name__.lower())
def fresh(request):
    """The machine of the tests that start a server of their own: one is enough, for that takes seconds."""
    return request.param()


@pytest.fixture(scope="module")
def served(machine):
    """One server for all tests that leave it running, as each of them must."""
    with machine.serve() as server:
        yield server


@pytest.fixture(scope="module")
def kernels(machine, tmp_path_factory):
    """A library with functions that do not behave."""
    return compiled(machine, tmp_path_factory.mktemp("kernels"))


def compiled(machine, folder):
    (folder / "kernels.c").write_text(KERNELS)
    command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{machine.machine}-linux-gnu"]
    command += ["-shared", "-nostdlib", "-fPIC", "-o", "kernels.so", "kernels.c"]
    subprocess.run(command, cwd=folder, check=True, timeout=120)
    return bytearray((folder / "kernels.so").read_bytes())


def load(session, kernels):
    session.upload(kernels, "kernels.so")
    return session.load_module("kernels.so")


def assert_alive(port, kernels, key=""):
    """A new session does what it should."""
    session = rpc.connect(HOST, port, key, session_timeout=60)
    load(session, kernels)["nothing"]()
    session.upload(bytearray(b"weights"), "weights.bin")
    assert session.download("weights.bin") == b"weights"


def test_sessions_one_after_another_share_nothing(served, kernels):
    assert_alive(served.port, kernels)
    session = rpc.connect(HOST, served.port, session_timeout=60)
    with pytest.raises(Exception, match=r"weights\.bin"):
        session.download("weights.bin")


def test_a_crash_ends_its_session_only(served, kernels):
    session = rpc.connect(HOST, served.port, session_timeout=60)
    crash = load(session, kernels)["crash"]
    with pytest.raises(Exception, match=BROKEN):
        crash()
    served.wait_for(r"session of 127\.0\.0\.1:\d+ crashed \(SIGSEGV\) in the code that it ran; ready for the next")
    assert_alive(served.port, kernels)


def test_a_session_that_takes_too_long(served, kernels):
    session = rpc.connect(HOST, served.port, session_timeout=3)
    spin = load(session, kernels)["spin"]
    with pytest.raises(Exception, match="RPCSessionTimeoutError: Your 3s session has expired"):
        spin()
    served.wait_for(r"took longer than its 3 s and was ended")
    assert_alive(served.port, kernels)


LEAVE = """
import sys
from tvm import rpc

session = rpc.connect("127.0.0.1", int(sys.argv[1]), session_timeout=0)
session.upload(bytearray(open(sys.argv[2], "rb").read()), "kernels.so")
print("ready", flush=True)
session.load_module("kernels.so")["spin"]()
"""
"""A host that waits for a kernel that does not return."""


def test_a_host_that_is_killed_while_a_kernel_hangs(served, kernels, tmp_path):
    path = tmp_path / "kernels.so"
    path.write_bytes(kernels)
    command = [sys.executable, "-c", LEAVE, str(served.port), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as host:
        try:
            assert host.stdout.readline() == "ready\n"
            eventually(lambda: is_computing(child_of(served)), 60)
        finally:
            host.kill()
    served.wait_for(r"session of 127\.0\.0\.1:\d+ was left by its host and ended")
    assert_alive(served.port, kernels)


def shake_hands(port, key=""):
    """The client's side of the handshake; gives the connection and the server's answer."""
    connection = socket.create_connection((HOST, port), timeout=60)
    text = f"client:{key}".encode()
    connection.sendall(struct.pack("<ii", base.RPC_MAGIC, len(text)) + text)
    return connection, struct.unpack("<i", base.recvall(connection, 4))[0]


def test_half_an_upload(served, kernels):
    connection, answer = shake_hands(served.port)
    assert answer == base.RPC_CODE_SUCCESS
    # A packet of a megabyte begins, and the cable is pulled.
    connection.sendall(struct.pack("<Q", 1 << 20) + b"\0" * 1000)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    name = f"{HOST}:{connection.getsockname()[1]}"
    connection.close()
    served.wait_for(f"session of {name} broke off: the connection was lost")
    assert_alive(served.port, kernels)


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", struct.pack("<ii", base.RPC_MAGIC, 1 << 30), b""])
def test_what_is_no_client_is_refused(served, kernels, said):
    with socket.create_connection((HOST, served.port), timeout=60) as connection:
        name = f"{HOST}:{connection.getsockname()[1]}"
        connection.sendall(said)
        with contextlib.suppress(OSError):  # it may have hung up, and what was said has not all been read
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
        served.wait_for(f"refused {name}: it is not an RPC client")
    assert_alive(served.port, kernels)


def test_another_key_is_refused(served, kernels):
    connection, answer = shake_hands(served.port, "other")
    with connection:
        assert answer == base.RPC_CODE_MISMATCH
        served.wait_for(f"refused {HOST}:{connection.getsockname()[1]}: its key is not this board's")
    assert_alive(served.port, kernels)


def child_of(server):
    """The process of the session that is open."""
    [child] = psutil.Process(server.process.pid).children()
    return child


def is_computing(process):
    before = process.cpu_times().user
    time.sleep(1)
    return process.cpu_times().user - before > 0.1


def eventually(condition, timeout_s=20):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_stops_cleanly_in_the_middle_of_a_session(fresh, tmp_path):
    kernels = compiled(fresh, tmp_path)
    with fresh.serve() as server:
        session = rpc.connect(HOST, server.port, session_timeout=60)
        load(session, kernels)
        child = child_of(server)
        server.process.terminate()
        assert server.process.wait(30) == 0
        assert not child.is_running()
        server.wait_for(r" stopped$")
        server.wait_for(r"session of .* was stopped with the server")
        with pytest.raises(Exception, match=BROKEN):
            load(session, kernels)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, server.port), timeout=5)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_and_the_end_of_the_terminal(number):
    with Here().serve() as server:
        server.process.send_signal(number)
        assert server.process.wait(30) == 0
        server.wait_for(r" stopped$")


def test_killed_while_a_kernel_runs(fresh, tmp_path):
    kernels = compiled(fresh, tmp_path)
    with fresh.serve() as server:
        session = rpc.connect(HOST, server.port, session_timeout=60)
        spin = load(session, kernels)["spin"]
        child = child_of(server)
        killer = subprocess.Popen(["sh", "-c", f"sleep 1; kill -KILL {server.process.pid}"])
        with pytest.raises(Exception, match=BROKEN):
            spin()
        killer.wait()
        eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def requested(tracker_port, key):
    """A session that the tracker hands out."""
    return TrackerSession((HOST, tracker_port)).request(key, session_timeout=60)


def test_registers_again_when_the_tracker_comes_back(fresh, tmp_path):
    kernels = compiled(fresh, tmp_path)
    with contextlib.ExitStack() as stack:
        tracker = stack.enter_context(loopback.tracker(tmp_path))
        server = stack.enter_context(fresh.serve("--tracker", tracker.name, "--key", "pi"))
        server.wait_for(f"registered with tracker {tracker.name} as 'pi'")
        load(requested(tracker.port, "pi"), kernels)["nothing"]()
        tracker.kill()
        server.wait_for(f"tracker {tracker.name}: .*; trying again until it answers")
        before = len(server.lines)
        again = stack.enter_context(loopback.tracker(tmp_path, tracker.port))
        eventually(lambda: any("registered with tracker" in line for line in server.lines[before:]), 30)
        load(requested(again.port, "pi"), kernels)["nothing"]()
        assert sum("trying again" in line for line in server.lines) == 1


# What cannot be served on; the message comes before anything else happens


def refusal(*arguments, **options):
    with pytest.raises(DeviceError) as caught:
        serve(*arguments, log=lambda line: None, **options)
    return str(caught.value)


def test_a_port_in_use():
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        assert refusal((HOST, port)) == (
            f"serve: found port {port} of 127.0.0.1 in use, expected a free one; choose another with --port"
        )


def test_an_address_of_another_machine():
    assert refusal(("192.0.2.1", 9090)).startswith("serve: cannot serve on 192.0.2.1:9090: ")
    assert refusal(("no-such-machine.invalid", 9090)).endswith("choose another --host or --port")


def test_a_key_of_two_words():
    assert refusal((HOST, 0), key="my pi") == "serve: found key 'my pi', expected one word; add --key rpi4"


def test_a_session_that_cannot_begin_leaves_the_server_running(monkeypatch):
    def start(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(session, "start", start)
    lines = []
    reader, writer = socket.socketpair()
    with socket.create_server((HOST, 0)) as listener, reader, writer:
        server = threading.Thread(target=_Server(listener, reader, "", None, lines.append).run)
        server.start()
        for _ in range(2):
            connection, answer = shake_hands(listener.getsockname()[1])
            with connection:
                assert answer == base.RPC_CODE_SUCCESS
                assert connection.recv(100).endswith(b"server:")
                assert connection.recv(100) == b""
        writer.send(b"stop")
        server.join()
    assert sum("could not go on here: [Errno 28] No space left on device" in line for line in lines) == 2


def test_a_tracker_without_a_key():
    assert refusal((HOST, 0), tracker=(HOST, 9190)) == (
        "serve: found --tracker without --key, expected what hosts ask it for; add --key rpi4"
    )


def test_a_tracker_on_another_machine_and_an_address_that_is_not_reached_from_there():
    assert refusal((HOST, 0), key="pi", tracker=("192.0.2.1", 9190)) == (
        "serve: found tracker 192.0.2.1 on another machine, whose hosts cannot reach 127.0.0.1 here; serve on --host "
        "0.0.0.0 in a network that you trust, or reach the tracker through an SSH tunnel"
    )


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with socket.create_server((HOST, 0)) as other:
        refusal((HOST, other.getsockname()[1]))
    assert signal.getsignal(signal.SIGTERM) is before
