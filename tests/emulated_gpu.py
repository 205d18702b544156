"""Emulated GPUs: CUDA C compiled for this CPU (tests/gpu/emulation.h), behind a driver that is made up (driver.cpp)."""

from __future__ import annotations

import atexit
import ctypes
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from kept_plans import KeptPlan
from lqcompile.schedules.cuda_device import HELPERS

from lqcompile.build import _variant
from lqcompile.cuda.launches import make_launches
from lqcompile.cuda.model import CudaModel
from lqcompile.cuda.nvrtc import DeviceCode
from lqcompile.cuda.source import PRELUDE, cuda_source
from lqcompile.graph.plan import Plan
from lqcompile.lowering.lower import lower
from lqcompile.target import Target

FOLDER = Path(__file__).parent / "gpu"

KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(.*\) \{$', re.M)

SETTINGS = {"devices": 1, "driver": 13000, "major": 9, "minor": 0, "free": 1 << 32, "load": 0, "launch": 0, "clock": 0}
SETTINGS |= {"init": 0}
"""What the driver tells, by name; `Driver.set` changes it."""

OPTIONS = ("-std=c++20", "-O0", "-fPIC", "-fno-strict-aliasing", "-w", "-ffp-contract=off")

GCC = shutil.which("g++")
"""Zig's compiler comes with the tests, but compiles its standard library for two minutes first, and watches nothing."""

WATCHED = (*OPTIONS, "-fsanitize=thread")
"""Calls a function of tests/gpu/accesses.h before each access."""


def compile_emulated(source: str, architecture: str = "") -> DeviceCode:
    """A shared library of kernels in place of machine code; in place of `lqcompile.cuda.nvrtc.compile_cuda`."""
    for helper in HELPERS.values():
        if "asm" in helper:
            source = source.replace(f"__device__ __forceinline__ {helper}\n", "")
    entries = [
        f'extern "C" emulation::Launch* emulated_{name}(void** parameters) {{ '
        f"return emulation::prepare(&{name}, parameters); }}"
        for name in KERNEL.findall(source)
    ]
    body = "\n".join(['#include "emulation.h"', source.removeprefix(PRELUDE), *entries])
    return DeviceCode(data=shared_library(body, watched=True), usage={})


@functools.cache
def driver() -> Driver:
    """The driver; one for all tests."""
    path = Path(tempfile.mkdtemp(prefix="lqcompile-gpu-")) / "libcuda.so.1"
    path.write_bytes(shared_library((FOLDER / "driver.cpp").read_text(encoding="utf-8")))
    return Driver(path)


class Driver:
    """A driver that emulates a GPU.

    Args:
        path: of its library.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._library = ctypes.CDLL(str(path))
        self._library.fake_memory.restype = ctypes.c_longlong

    def set(self, **settings: int) -> None:
        """Changes some of `SETTINGS`."""
        for name, value in settings.items():
            self._library.fake_set(name.encode(), ctypes.c_longlong(value))

    def reset(self) -> None:
        """As at the start."""
        self.set(**SETTINGS)

    @property
    def bytes_in_use(self) -> int:
        """GPU memory that is allocated."""
        return int(self._library.fake_memory())


def compile_plan(
    plan: Plan,
    target: Target,
    families: Mapping[str, str] | None = None,
    compiler: Callable[[str], DeviceCode] = compile_emulated,
) -> KeptPlan:
    """A plan, compiled for a target."""
    program = lower(plan, target, families=families)
    launches = make_launches(program)
    manifest = {
        "inputs": [{"name": v.name, "shape": list(v.shape), "dtype": "float32"} for v in plan.inputs],
        "outputs": [{"name": n, "shape": list(s), "dtype": "float32"} for n, _, s in plan.outputs],
    }
    sizes = [[tensor.size for tensor in group] for group in (program.inputs, program.outputs)]
    return KeptPlan(
        plan=plan,
        manifest=manifest,
        variant=_variant(plan, program, launches, target, "", ""),
        sizes=(sizes[0], sizes[1]),
        code=compiler(cuda_source(launches.module, target)).data,
        parameters=launches.parameters,
    )


def load_plan(
    plan: Plan,
    target: Target,
    families: Mapping[str, str] | None = None,
    compiler: Callable[[str], DeviceCode] = compile_emulated,
) -> CudaModel:
    """A plan, compiled for a target and loaded: on the emulated GPU if the driver is the emulated one."""
    return compile_plan(plan, target, families, compiler).load()


def shared_library(source: str, *, watched: bool = False) -> bytes:
    """Compiles C++, with accesses of memory watched where the compiler is GCC."""
    with tempfile.TemporaryDirectory(prefix="lqcompile-gpu-") as folder:
        path, compiled, library = (Path(folder) / name for name in ("code.cpp", "code.o", "code.so"))
        path.write_text(source, encoding="utf-8")
        if GCC is None:
            compiler, options = [sys.executable, "-m", "ziglang", "c++"], [*OPTIONS, "-fno-sanitize=all"]
        else:
            # The emulated threads of each library are its own: no symbol may be the same in all of them.
            compiler = [GCC, "-fno-gnu-unique"]
            options = [f"-I{_precompiled()}", *WATCHED] if watched else [*OPTIONS]
        _run([*compiler, *options, f"-I{FOLDER}", "-c", "-o", str(compiled), str(path)])
        # Without the library that -fsanitize stands for.
        _run([*compiler, "-shared", "-Wl,-Bsymbolic", "-o", str(library), str(compiled), "-ldl"])
        return library.read_bytes()


@functools.cache
def _precompiled() -> Path:
    """A folder with the header of all emulated kernels, read once."""
    folder = Path(tempfile.mkdtemp(prefix="lqcompile-gpu-"))
    atexit.register(shutil.rmtree, folder)
    header, made = FOLDER / "emulation.h", folder / "emulation.h.gch"
    _run([str(GCC), "-fno-gnu-unique", *WATCHED, "-x", "c++-header", str(header), "-o", str(made)])
    return folder


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
