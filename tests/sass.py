"""Machine code of NVIDIA GPUs as text."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def disassemble(cubin: bytes, path: Path) -> dict[str, str]:
    """SASS by name of the kernel, by nvdisasm."""
    path.write_bytes(cubin)
    beside = next(iter(Path(sys.prefix).glob("lib/python*/site-packages/nvidia/cu13/bin/nvdisasm")), None)
    program = shutil.which("nvdisasm") or beside
    if program is None:
        pytest.skip("there is no nvdisasm (pip install nvidia-cuda-nvdisasm)")
    done = subprocess.run([program, "-c", path], capture_output=True, text=True, check=True)
    parts = re.split(r"\.section\s+\.text\.(\w+)", done.stdout)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))
