"""CUDA C to machine code or PTX, by NVIDIA's run-time compiler: a library, no host compiler is needed.

The functions are those of nvrtc.h (NVRTC 13.0, https://docs.nvidia.com/cuda/nvrtc). Floating-point contraction is off:
the arithmetic of a network is fixed down to each rounding, and kernels ask for fused multiply-adds by name.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from lqcompile.errors import BuildError

OPTIONS = ("--std=c++17", "--fmad=false", "--device-as-default-execution-space", "--ptxas-options=-v")

LIBRARY, BUILTINS = "libnvrtc.so.13", "libnvrtc-builtins.so.13.*"


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a kernel takes of a multiprocessor, as ptxas reports it; empty for PTX."""

    registers: int
    stack_bytes: int
    spilled_bytes: int
    shared_bytes: int


@dataclass(frozen=True, kw_only=True)
class DeviceCode:
    """Compiled kernels.

    Args:
        data: a cubin, or PTX.
        usage: by name of the kernel.
    """

    data: bytes
    usage: dict[str, Usage]


def compile_cuda(source: str, architecture: str) -> DeviceCode:
    """Compiles CUDA C.

    Args:
        source: of kernels with C linkage.
        architecture: ``sm_80`` and the like for machine code, ``compute_80`` and the like for PTX.

    Raises:
        BuildError: there is no NVRTC, or it refuses the source.
    """
    library = _library()
    program = ctypes.c_void_p()
    status = library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"network.cu", 0, None, None)
    _check(library, status, "nvrtcCreateProgram", "")
    try:
        options = [f"--gpu-architecture={architecture}", *OPTIONS]
        values = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        status = library.nvrtcCompileProgram(program, len(options), values)
        log = _bytes(library, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        _check(library, status, architecture, log)
        kind = "PTX" if architecture.startswith("compute_") else "CUBIN"
        return DeviceCode(data=_bytes(library, program, kind), usage=_usage(log))
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def version() -> str:
    """Version of NVRTC.

    Raises:
        BuildError: there is none.
    """
    major, minor = ctypes.c_int(), ctypes.c_int()
    _library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


@functools.cache
def _library() -> ctypes.CDLL:
    found = importlib.util.find_spec("nvidia")
    folders = [Path(folder) / "cu13" / "lib" for folder in (found.submodule_search_locations or ())] if found else []
    for folder in (*folders, Path()):
        try:
            # NVRTC looks for its builtins on the library path only, or among what is loaded.
            for builtins in folder.glob(BUILTINS):
                ctypes.CDLL(str(builtins))
            library = ctypes.CDLL(str(folder / LIBRARY))
        except OSError:
            continue
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        return library
    raise BuildError(
        f"CUDA: found no compiler of device code ({LIBRARY}), expected NVRTC 13; pip install 'lqcompile[cuda]'"
    )


def _bytes(library: ctypes.CDLL, program: ctypes.c_void_p, name: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{name}Size")(program, ctypes.byref(size)), f"nvrtcGet{name}Size", "")
    data = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{name}")(program, data), f"nvrtcGet{name}", "")
    return data.raw


def _check(library: ctypes.CDLL, status: int, subject: str, log: str) -> None:
    if status:
        text = library.nvrtcGetErrorString(status).decode()
        first = next((line for line in log.splitlines() if "error" in line.lower()), "")
        raise BuildError(
            f"CUDA compiler ({subject}): found {text}{': ' + first.strip() if first else ''}, expected code; report "
            "this as a bug"
        )


def _usage(log: str) -> dict[str, Usage]:
    """Registers, spills and shared memory of each kernel from what ``ptxas -v`` prints."""
    found = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        name = part[: part.index("'")]
        spills = [int(number) for number in re.findall(r"(\d+) bytes spill", part)]
        registers = re.search(r"Used (\d+) registers", part)
        stack = re.search(r"(\d+) bytes stack frame", part)
        shared = re.search(r"(\d+) bytes smem", part)
        found[name] = Usage(
            registers=int(registers[1]) if registers else 0,
            stack_bytes=int(stack[1]) if stack else 0,
            spilled_bytes=sum(spills),
            shared_bytes=int(shared[1]) if shared else 0,
        )
    return found
