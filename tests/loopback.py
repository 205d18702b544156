"""Boards on this machine for tests: `lqcompile serve` on loopback with faults made on purpose, and TVM's tracker.

Importing TVM takes seconds, so one process, the nursery, imports it and forks all servers of a test run; as it has
never run a kernel, they are as good as new.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

HOST = "127.0.0.1"


class Program:
    """A running server or tracker; `log` is the file with its standard error."""

    def __init__(self, process, port, log):
        self.process, self.port, self.log = process, port, log
        self.address = (HOST, port)
        self.name = f"{HOST}:{port}"

    def kill(self):
        """Kill it at once, as a power cut does."""
        try:
            os.killpg(self.process, signal.SIGKILL)
            while True:
                os.kill(self.process, 0)
                time.sleep(0.01)
        except ProcessLookupError:
            return


@contextmanager
def started(folder, *arguments):
    """Start a program; it is killed in the end."""
    log = Path(folder) / f"{'-'.join(map(str, arguments))}.log"
    log.touch()
    pipe = nursery()
    pipe.stdin.write(json.dumps([str(log), *arguments]) + "\n")
    pipe.stdin.flush()
    answer = pipe.stdout.readline().split()
    assert len(answer) == 2, f"{arguments}: {answer} {log.read_text()}"
    program = Program(*map(int, answer), log)
    try:
        yield program
    finally:
        program.kill()


def server(folder, *, key="", tracker=0, fault="none"):
    """A board; `tracker` is the port of one to register with."""
    return started(folder, "server", key, tracker, fault)


def tracker(folder, port=0):
    """A tracker."""
    return started(folder, "tracker", port)


@functools.cache
def nursery():
    """The process that makes the others; it ends with this one, since its input ends then."""
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run_python(*arguments):
    """Run Python in a process of its own."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def raise_children():
    """Fork a child for each line of the input; those that are left end with this process."""
    import tvm.rpc.server
    import tvm.rpc.tracker

    import lqcompile.rpc.serve
    from lqcompile.rpc.session import die_with_parent

    assert tvm.rpc.server and tvm.rpc.tracker and lqcompile.rpc.serve
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        log, *arguments = json.loads(line)
        if os.fork() == 0:
            # Not killed by number in the end: by then most have ended, and their numbers may be others'.
            die_with_parent()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setpgid(0, 0)
            os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), 2)
            os.close(0)
            try:
                PROGRAMS[arguments[0]](*arguments[1:])
            finally:
                traceback.print_exc()
                os._exit(1)


def tell(port):
    sys.stdout.write(f"{os.getpid()} {port}\n")
    sys.stdout.flush()


def serve(key, tracker_port, fault):
    from lqcompile.rpc.serve import serve as serve_board

    if fault == "plain":
        serve_plain()
        return
    spoil(fault)

    def log(line):
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
        if line.startswith("serving on "):
            tell(line.rpartition(":")[2])

    serve_board((HOST, 0), key=key, tracker=(HOST, tracker_port) if tracker_port else None, log=log)


def serve_plain():
    """TVM's own server; all that lqcompile registered has another name."""
    import tvm_ffi
    from tvm.rpc.server import PopenRPCServerState

    from lqcompile.rpc import board

    for name in board.FUNCTIONS:
        tvm_ffi.remove_global_func(board.PREFIX + name)
    state = PopenRPCServerState(HOST, 40000, 60000, silent=True)
    tell(state.port)
    state.thread.join()


def track(port):
    from tvm.rpc.tracker import PopenTrackerServerState

    first, last = (port, port + 1) if port else (40000, 60000)
    state = PopenTrackerServerState(HOST, first, last, silent=True)
    tell(state.port)
    state.thread.join()


def spoil(fault):
    """Let something of a board go wrong."""
    from lqcompile.rpc import board
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
    elif fault == "no onnxruntime":
        board.importlib.util.find_spec = lambda name: None
        board._PACKAGES = ("lqcompile", "numpy")
    else:
        assert fault == "none"


PROGRAMS = {"server": serve, "tracker": track}

if __name__ == "__main__":
    raise_children()
