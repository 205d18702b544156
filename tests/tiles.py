"""The AMX target on any x86-64 processor: natively, or with tile instructions run in software when they trap.

The machine code under test has the real instructions. Where the processor lacks AVX-512, LLVM writes the vectors around
them for AVX2: tile registers, addresses and loops are the same.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from compiling import missing

from lqcompile.target import Target, find

KINDS = ("configure", "release", "zero", "load", "store", "multiply")


def native() -> bool:
    """Whether this machine runs the target itself."""
    return not missing(find("x86-amx"))


def tile_target() -> Target:
    """The AMX target, for this machine's vector registers."""
    target = find("x86-amx")
    if native():
        return target
    return replace(target, llvm={"mcpu": "haswell", "mattr": ["+amx-tile", "+amx-int8"]})


@functools.cache
def _library() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tile_registers.so"
        source = Path(__file__).with_name("tile_registers.c")
        command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-shared", "-fPIC", "-fno-sanitize=all"]
        subprocess.run([*command, "-o", str(path), str(source)], check=True)
        return ctypes.CDLL(str(path))


@contextlib.contextmanager
def tile_registers() -> Iterator[dict[str, int]]:
    """Runs tile instructions in software; at the end the dict holds how many of each kind (empty where native)."""
    counts: dict[str, int] = {}
    if native():
        yield counts
        return
    library = _library()
    library.tile_registers_install()
    try:
        yield counts
    finally:
        library.tile_registers_remove()
        found = (ctypes.c_uint64 * len(KINDS))()
        library.tile_registers_counts(found)
        counts.update(zip(KINDS, found, strict=True))
