"""TVM's runtime without its compiler.

``import tvm`` loads the compiler (259 MB of library) wherever it is installed. Running an artifact takes the FFI and
libtvm_runtime alone, and 50 MB of memory instead of 390.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from pathlib import Path
from typing import Any

import tvm_ffi

from lqcompile import cpu
from lqcompile.errors import LQCompileError


def _load_library() -> ctypes.CDLL:
    """Load libtvm_runtime as ``import tvm`` does, whether that comes later, came before, or never comes."""
    found = importlib.util.find_spec("tvm")  # of a package at the top, which this does not import
    for folder in (found.submodule_search_locations or ()) if found else ():
        for library in sorted((Path(folder) / "lib").glob("libtvm_runtime.*")):
            return ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    raise LQCompileError("TVM: found no libtvm_runtime, expected it in the package 'tvm'; pip install apache-tvm")


# TVM 0.27 reads these whenever a kernel starts threads. By default it pins the calling thread to the first processor,
# where all that the program starts later stays too; takes half of the processors of any x86 for hyper-threads; and asks
# the system for their number each time, which takes 8 us a kernel.
os.environ.setdefault("TVM_BIND_THREADS", "0")
os.environ.setdefault("TVM_NUM_THREADS", str(cpu.logical_cores()))

_LIBRARY = _load_library()


def load_module(path: Path) -> Any:
    """The functions, by name, of a shared library that TVM made.

    Raises:
        RuntimeError: the library does not load.
    """
    return tvm_ffi.load_module(str(path))
