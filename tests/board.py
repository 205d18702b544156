"""An emulated aarch64 device for tests: Python of its own, under qemu-user (scripts/emulated-board.sh makes it).

What it can do is what the emulated CPU can do; how long it takes means nothing.
"""

import contextlib
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("LQCOMPILE_BOARD", ROOT / ".board"))

BUNDLE = FOLDER / "lqcompile-board"
"""The device bundle, unpacked; lqcompile itself is taken from the sources here."""

CPUS = ("cortex-a53", "cortex-a72", "neoverse-n1")
"""Raspberry Pi 3 and 4, and a core with the dot product (Raspberry Pi 5 has its sister, the Cortex-A76)."""

I8MM_CPU = "max"
"""What qemu calls everything it can emulate, 8-bit matrix products (FEAT_I8MM) and SVE among it."""


class Board:
    """The emulated device with one CPU."""

    def __init__(self, cpu="cortex-a72"):
        if not (FOLDER / ".ready").exists():
            pytest.skip("there is no emulated board; 'make board' makes it and says what it lacks")
        self.cpu = cpu
        self.environment = os.environ | {
            "LQCOMPILE_BOARD_CPU": cpu,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, BUNDLE / "common", BUNDLE / "python3.11"))),
            "OMP_NUM_THREADS": "1",
        }

    def run(self, *arguments, timeout_s=120, check=True, **options):
        """Run the device's Python on arguments; gives its output as text."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=check,
            **options,
        )

    def command(self, *arguments):
        """Arguments for subprocess that start the device's Python; they want `environment`."""
        return [str(FOLDER / "python"), *map(str, arguments)]

    def serve(self, *options):
        """Run ``lqcompile serve`` on the device for the length of a block; gives a `Served`."""
        return serving(self.command("-m", "lqcompile", "serve"), self.environment, *options)


@contextlib.contextmanager
def serving(command, environment, *options):
    """Run a command that means ``lqcompile serve`` for the length of a block; gives a `Served`."""
    process = subprocess.Popen(
        [*command, "--port", "0", *options],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    served = Served(process)
    try:
        served.port = int(served.wait_for(r"serving on 127\.0\.0\.1:(\d+)")[1])
        yield served
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        served.reader.join()


class Served:
    """A running server: `port`, `process`, and the `lines` that it has logged."""

    def __init__(self, process):
        self.process = process
        self.port = None
        self.lines = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def wait_for(self, pattern, timeout_s=60):
        """Wait for a line of the log that the pattern is found in; gives the match."""
        with self.changed:
            self.changed.wait_for(lambda: self._find(pattern) or not self.reader.is_alive(), timeout_s)
            found = self._find(pattern)
        assert found, f"found no line like {pattern!r} in the server's log:\n" + "".join(self.lines)
        return found

    def _find(self, pattern):
        return next((match for line in self.lines if (match := re.search(pattern, line))), None)

    def _read(self):
        for line in self.process.stderr:
            with self.changed:
                self.lines.append(line)
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()
