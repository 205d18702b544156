"""Code for ARM, run on any Linux machine: linked into a static program (tests/emulation.c) that qemu-user runs.

What an emulated CPU can do is honest: it stops at instructions that it lacks. How long it takes means nothing.
"""

from __future__ import annotations

import ctypes
import functools
import shutil
import struct
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HARNESS = Path(__file__).with_name("emulation.c")

TYPE_CODES = {"i": 0, "u": 1, "f": 2}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How code of an architecture is linked and run.

    Args:
        triple: Zig's name of it.
        emulator: program of qemu-user.
    """

    triple: str
    emulator: str


MACHINES = {
    "aarch64": Machine(triple="aarch64-linux-none", emulator="qemu-aarch64-static"),
    "armv7l": Machine(triple="arm-linux-eabihf", emulator="qemu-arm-static"),
}


class Emulated:
    """Entry points of an executable by name, as a loaded module gives them.

    Args:
        executable: what TVM compiled.
        machine: architecture, as `lqcompile.cpu.machine` names it.
        cpu: model of qemu, such as ``cortex-a53``.
    """

    def __init__(self, executable: Any, machine: str, cpu: str) -> None:
        self.machine, self.cpu = machine, cpu
        self.folder = Path(tempfile.mkdtemp(prefix="lqcompile-emulation-"))
        weakref.finalize(self, shutil.rmtree, self.folder)
        self.program = self.folder / "network"
        link = functools.partial(_link, MACHINES[machine].triple)
        link.output_format = "so"  # type: ignore[attr-defined]
        executable.export_library(str(self.program), fcompile=link)

    def __getitem__(self, name: str) -> Callable[..., None]:
        return functools.partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> None:
        packed, tensors = pack_call(name, arguments)
        command = [MACHINES[self.machine].emulator, "-cpu", self.cpu, str(self.program)]
        done = subprocess.run(command, input=packed, capture_output=True, check=False, timeout=300)
        if done.returncode:
            raise RuntimeError(f"emulated {self.cpu}: exit code {done.returncode}: {done.stderr.decode()}")
        start = 0
        for array in tensors:
            # TVM's tensors come read-only through NumPy.
            ctypes.memmove(array.ctypes.data, done.stdout[start : start + array.nbytes], array.nbytes)
            start += array.nbytes


def pack_call(name: str, arguments: Sequence[Any]) -> tuple[bytes, list[np.ndarray]]:
    """A call of an entry point as the harness reads it, and its tensors, whose bytes the harness writes in the end."""
    parts = [struct.pack("<2q", ("run", "sums").index(name), len(arguments))]
    tensors = []
    for argument in arguments:
        if not hasattr(argument, "__dlpack__"):
            parts.append(struct.pack("<2q", 0, argument))
            continue
        array = np.from_dlpack(argument)
        header = (TYPE_CODES[array.dtype.kind], 8 * array.itemsize, array.ndim, *array.shape, array.nbytes)
        parts += [struct.pack(f"<{len(header) + 1}q", 1, *header), array.tobytes()]
        tensors.append(array)
    return b"".join(parts), tensors


@functools.cache
def _harness(triple: str) -> Path:
    """The compiled harness."""
    folder = Path(tempfile.mkdtemp(prefix="lqcompile-harness-"))
    weakref.finalize(_harness, shutil.rmtree, folder)
    made = folder / "harness.o"
    zig("cc", "-target", triple, "-O1", "-ffreestanding", "-fno-stack-protector", "-c", str(HARNESS), "-o", str(made))
    return made


def _link(triple: str, output: str, objects: Sequence[str], options: Sequence[str] = (), **_: object) -> None:
    zig("ld.lld", "-static", "-o", output, str(_harness(triple)), *objects)


def zig(*arguments: str) -> None:
    """Runs a tool of Zig's."""
    done = subprocess.run([sys.executable, "-m", "ziglang", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"zig {arguments[0]}: exit code {done.returncode}: {done.stderr.strip()}")
