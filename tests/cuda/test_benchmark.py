"""benchmarks/gpu.py without a GPU."""

import subprocess
import sys
from pathlib import Path

import pytest

from lqcompile.cuda.driver import Gpu
from lqcompile.errors import DeviceError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


def test_without_a_gpu_it_says_so_in_one_line() -> None:
    try:
        Gpu()
    except DeviceError as error:
        expected = f"benchmarks/gpu.py: {error}\n"
    else:
        pytest.skip("this machine has a GPU")
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)
