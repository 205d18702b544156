"""Code for x86-64 processors that this machine is not: run on an emulated PC (Bochs), without an operating system.

`scripts/emulated-pc.sh` gets Bochs; `scripts/emulated-pc-amx.sh` makes one whose AMX products are right. A compiled
network is linked with the harness that ARM code is run by (tests/emulation.c), behind a boot sector (tests/pc_start.S);
it reads its arguments from one disk and writes its results to another (tests/pc.c). What an emulated processor can do
is honest: it stops at instructions that it lacks. How long it takes means nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import pty
import re
import shutil
import struct
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from emulation import pack_call, zig

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("LQCOMPILE_PC", HERE.parent / ".pc"))

MENDED = FOLDER / "amx/bochs"
"""Bochs with scripts/bochs.patch, where that was made; it runs every processor, and faster than Debian's."""

SECTOR = 512
TRACK = 16 * 63 * SECTOR
"""Bytes of a cylinder of the disks."""

BOOT_AT, PROGRAM_AT = 0x7C00, 0x100000
"""Addresses of the boot sector and of the program (tests/pc.ld)."""

SECTORS_AT = 0x1F0
"""Where the boot sector wants to know how long the program is (tests/pc_start.S)."""

TRIPLE = "x86_64-freestanding-none"


@dataclass(frozen=True, kw_only=True)
class Processor:
    """A processor that Bochs can be.

    Args:
        model: Bochs's name.
        added: features beyond those of the model, by Bochs's names.
    """

    model: str
    added: tuple[str, ...] = ()


PROCESSORS = {
    "x86-avx2": Processor(model="corei7_haswell_4770"),
    "x86-avx-vnni": Processor(model="arrow_lake"),
    "x86-avx512": Processor(model="corei7_skylake_x"),
    "x86-avx512-vnni": Processor(model="corei7_skylake_x", added=("avx512vnni",)),
    "x86-avx512-vpopcntdq": Processor(model="corei7_icelake_u"),
    "x86-amx": Processor(model="sapphire_rapids"),
}
"""By target, the oldest of Bochs's processors that it is for; Cascade Lake is Skylake with VNNI."""


def pc_asked() -> bool:
    """Whether tests of kernels run here what this machine lacks; they skip where nobody asked (CONTRIBUTING.md)."""
    return os.environ.get("LQCOMPILE_TEST_PC") == "1"


def skip_unless_made() -> None:
    """Skips the test where there is no emulated PC."""
    if not (FOLDER / ".ready").exists():
        pytest.skip("there is no emulated PC; 'make pc' makes it and says what it lacks")


def skip_unless_tiles() -> None:
    """Skips the test where the emulated PC multiplies signed bytes of tiles as unsigned ones, or there is none."""
    skip_unless_made()
    if not MENDED.exists():
        pytest.skip("the emulated PC multiplies signed bytes wrongly; 'make pc-amx' makes one that does not")


class StoppedError(RuntimeError):
    """The emulated processor stopped: at an instruction that it lacks, or at an address that is none."""


class EmulatedPC:
    """Entry points of an executable by name, as a loaded module gives them.

    Args:
        executable: what TVM compiled.
        processor: to run it on.
    """

    def __init__(self, executable: Any, processor: Processor) -> None:
        skip_unless_made()
        self.processor = processor
        with tempfile.TemporaryDirectory(prefix="lqcompile-pc-") as folder:
            linked = Path(folder) / "network"
            _link.output_format = "so"  # type: ignore[attr-defined]
            executable.export_library(str(linked), fcompile=_link)
            self.program = linked.read_bytes()

    def __getitem__(self, name: str) -> Callable[..., None]:
        return functools.partial(self._call, name)

    def _call(self, name: str, *arguments: Any) -> None:
        packed, tensors = pack_call(name, arguments)
        room = sum(array.nbytes for array in tensors)
        results = boot(self.program, packed, room, self.processor)
        start = 0
        for array in tensors:
            # TVM's tensors come read-only through NumPy.
            ctypes.memmove(array.ctypes.data, results[start : start + array.nbytes], array.nbytes)
            start += array.nbytes


def boot(program: bytes, given: bytes, room: int, processor: Processor, limit_s: float = 300) -> bytes:
    """Runs a program on the emulated PC.

    Args:
        program: what `_link` made, its boot sector first.
        given: what it reads.
        room: bytes that it may write.
        processor: to run on.
        limit_s: seconds until it is given up.

    Returns:
        what it wrote, `room` bytes of it.

    Raises:
        StoppedError: it did not end by itself, or with another exit code than 0.
    """
    with tempfile.TemporaryDirectory(prefix="lqcompile-pc-") as name:
        folder = Path(name)
        _write_disk(folder / "program.img", program + given)
        _write_disk(folder / "results.img", bytes(SECTOR + room))
        (folder / "bochsrc").write_text(_configuration(folder, processor))
        _run_bochs(folder, limit_s)
        results = (folder / "results.img").read_bytes()
        ended, code = struct.unpack_from("<2q", results)
        if not ended or code:
            log = (folder / "bochs.log").read_text(errors="replace")
            raise StoppedError(f"emulated {processor.model}: " + (f"exit code {code}" if ended else _last_words(log)))
    return results[SECTOR : SECTOR + room]


def _last_words(log: str) -> str:
    """The instruction that Bochs stopped at."""
    found = re.findall(r">> (.+) : [0-9A-F]+$", log, re.MULTILINE)
    return f"stopped at '{found[-1].strip()}'" if found else log.strip().rpartition("\n")[2]


def _write_disk(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.truncate(-(-len(data) // TRACK) * TRACK)


def _configuration(folder: Path, processor: Processor) -> str:
    added = f', add_features="{" ".join(processor.added)}"' if processor.added else ""
    disks = "".join(
        f"ata0-{place}: type=disk, path={folder}/{name}.img, mode=flat, heads=16, spt=63, "
        f"cylinders={(folder / f'{name}.img').stat().st_size // TRACK}\n"
        for place, name in (("master", "program"), ("slave", "results"))
    )
    share = FOLDER / "root/usr/share/bochs"
    return f"""\
cpu: model={processor.model}, count=1, ips=1000000, reset_on_triple_fault=0{added}
memory: guest=256, host=256
romimage: file={share}/BIOS-bochs-latest
vgaromimage: file={share}/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
{disks}boot: disk
clock: sync=none
display_library: {"nogui" if MENDED.exists() else "term"}
log: {folder}/bochs.log
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
"""


def _run_bochs(folder: Path, limit_s: float) -> None:
    """Runs Bochs to its end; its screen is a terminal that nobody looks at."""
    libraries = FOLDER / "root/usr/lib/x86_64-linux-gnu"
    command = [libraries / "ld-linux-x86-64.so.2", "--library-path", f"{libraries}:{libraries}/pulseaudio"]
    command = [MENDED] if MENDED.exists() else [*command, FOLDER / "root/usr/bin/bochs-bin"]
    command += ["-q", "-f", folder / "bochsrc"]
    environment = os.environ | {"LTDL_LIBRARY_PATH": f"{libraries}/bochs/plugins", "TERM": "xterm"}
    screen, terminal = pty.openpty()
    reader = threading.Thread(target=_discard, args=(screen,))
    reader.start()
    try:
        streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
        with subprocess.Popen(command, env=environment, start_new_session=True, **streams) as process:
            try:
                process.wait(limit_s)
            except subprocess.TimeoutExpired:
                process.kill()
    finally:
        os.close(terminal)
        reader.join()
        os.close(screen)


def _discard(screen: int) -> None:
    with contextlib.suppress(OSError):  # Linux's way to say that the other end is closed
        while os.read(screen, 1 << 16):
            pass


@functools.cache
def _objects() -> list[Path]:
    """The compiled harness."""
    folder = Path(tempfile.mkdtemp(prefix="lqcompile-pc-"))
    weakref.finalize(_objects, shutil.rmtree, folder)
    made = []
    for source in ("emulation.c", "pc.c", "pc_start.S"):
        made.append(folder / f"{source}.o")
        options = (
            () if source.endswith(".S") else ("-O1", "-ffreestanding", "-fno-stack-protector", "-fno-sanitize=all")
        )
        zig("cc", "-target", TRIPLE, *options, "-c", str(HERE / source), "-o", str(made[-1]))
    return made


def _link(output: str, objects: Sequence[str], options: Sequence[str] = (), **_: object) -> None:
    """Links a boot sector and the program behind it, in whole sectors; how many, the boot sector is told."""
    flat = Path(output)
    script = ("-T", str(HERE / "pc.ld"), "--oformat", "binary")
    zig("ld.lld", "-static", *script, "-o", str(flat), *map(str, _objects()), *objects)
    memory = flat.read_bytes()
    program = memory[PROGRAM_AT - BOOT_AT :]
    program += bytes(-len(program) % SECTOR)
    first = bytearray(memory[:SECTOR])
    struct.pack_into("<I", first, SECTORS_AT, len(program) // SECTOR)
    flat.write_bytes(bytes(first) + program)
