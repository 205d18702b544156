"""A board on this machine for tests: `lqcompile serve` on loopback, with faults made on purpose, and TVM's tracker.

    python loopback.py server KEY TRACKER_PORT FAULT      (0: no tracker)
    python loopback.py tracker PORT                       (0: a free one)

Both print their port and run until they are killed.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

HOST = "127.0.0.1"


class Program:
    """A running server or tracker; `log` is the file with its standard error."""

    def __init__(self, process, port, log):
        self.process, self.port, self.log = process, port, log
        self.address = (HOST, port)
        self.name = f"{HOST}:{port}"

    def kill(self):
        """Kill it and all its children at once, as a power cut does."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)


@contextmanager
def started(folder, *arguments):
    """Start this file as a program; it is killed in the end."""
    log = folder / f"{'-'.join(map(str, arguments))}.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, __file__, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    with process.stdout as output:
        line = output.readline()
        assert line.strip().isdigit(), f"{arguments}: {line}{log.read_text()}"
        program = Program(process, int(line), log)
        try:
            yield program
        finally:
            program.kill()


def server(folder, *, key="", tracker=0, fault="none"):
    """A board."""
    return started(folder, "server", key, tracker, fault)


def tracker(folder, port=0):
    """A tracker."""
    return started(folder, "tracker", port)


def tell(port):
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()


def serve(key, tracker_port, fault):
    from lqcompile.serve import serve as serve_board

    spoil(fault)

    def log(line):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
        if line.startswith("serving on "):
            tell(line.rpartition(":")[2])

    serve_board((HOST, 0), key=key, tracker=(HOST, tracker_port) if tracker_port else None, log=log)


def serve_plain():
    """TVM's own server, which knows nothing of lqcompile."""
    from tvm.rpc.server import PopenRPCServerState

    tell(PopenRPCServerState(HOST, 40000, 60000, silent=True).port)


def track(port):
    from tvm.rpc.tracker import PopenTrackerServerState

    first, last = (port, port + 1) if port else (40000, 60000)
    tell(PopenTrackerServerState(HOST, first, last, silent=True).port)


def spoil(fault):
    """Let something of a board go wrong."""
    from lqcompile import board
    from lqcompile.runtime import CompiledModel

    if fault == "crash":
        CompiledModel.run = lambda self, inputs: os.kill(os.getpid(), signal.SIGILL)
    elif fault == "hang":
        CompiledModel.run = lambda self, inputs: time.sleep(3600)
    elif fault == "bug":
        CompiledModel.run = lambda self, inputs: {}["nothing"]
    elif fault == "full disk":
        whole = board.write

        def write(arrays, *, file, offset):
            return whole({"data": arrays["data"][:-1]}, file=file, offset=offset)

        board._offer(write)
    elif fault == "emulated":
        board.emulator = lambda machine: "qemu-user"
    elif fault == "old CPU":
        board.cpu.cpu_features = lambda: frozenset({"sse", "sse2"})
    elif fault == "other protocol":
        board.PROTOCOL += 1
    else:
        assert fault == "none"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tracker", port]:
            track(int(port))
        case ["server", _, _, "plain"]:
            serve_plain()
        case ["server", key, tracker_port, fault]:
            serve(key, int(tracker_port), fault)
