"""An emulated aarch64 device for tests: Python of its own, under qemu-user (scripts/emulated-board.sh makes it).

What it can do is what the emulated CPU can do; how long it takes means nothing.
"""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = Path(os.environ.get("LQCOMPILE_BOARD", ROOT / ".board"))

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
            "PYTHONPATH": f"{ROOT}{os.pathsep}{FOLDER / 'site'}",
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
