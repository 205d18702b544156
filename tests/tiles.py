"""AMX on x86-64 processors without it: tile instructions trap and are run in software (``tile_registers.c``).

The machine code has the real instructions; LLVM writes the vectors around them for AVX2 in place of AVX-512. So tile
configuration, addresses, packing, loops and the epilogue are those of the target.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from lqcompile.target import Target

KINDS = ("configure", "release", "zero", "load", "store", "split store", "multiply")
"""Instructions that are counted; a split store also as a store."""


def for_avx2(target: Target) -> Target:
    """The AMX target with 256-bit vectors in its machine code."""
    return replace(target, llvm={"mcpu": "haswell", "mattr": ["+amx-tile", "+amx-int8"]})


@functools.cache
def install() -> ctypes.CDLL:
    """Makes tile instructions of this process run in software, from now on."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tile_registers.so"
        source = Path(__file__).with_name("tile_registers.c")
        command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", "-fno-sanitize=all"]
        subprocess.run([*command, "-o", str(path), str(source)], check=True)
        library = ctypes.CDLL(str(path))
    library.tile_registers_install()
    return library


def counts() -> dict[str, int]:
    """How many tile instructions ran in software since the last call, by kind."""
    found = (ctypes.c_uint64 * len(KINDS))()
    install().tile_registers_counts(found)
    return dict(zip(KINDS, found, strict=True))
