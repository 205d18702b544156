"""What the CPU of this machine can do, asked of the operating system.

LLVM does not know every virtual machine (it takes a Sapphire Rapids guest for a Rocket Lake), so the features are read
from the system and spelled as LLVM spells them. TVM is not needed. On 64-bit ARM the kernel's capability bits are read
(``getauxval``): what ``/proc/cpuinfo`` says is the emulating machine's under qemu-user.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from lqcompile import amx

_MACHINES = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}

_LINUX_TO_LLVM = {
    "x86_64": {
        "abm": "lzcnt",
        "amx_bf16": "amx-bf16",
        "amx_fp16": "amx-fp16",
        "amx_int8": "amx-int8",
        "amx_tile": "amx-tile",
        "avx512_bf16": "avx512bf16",
        "avx512_bitalg": "avx512bitalg",
        "avx512_fp16": "avx512fp16",
        "avx512_vbmi2": "avx512vbmi2",
        "avx512_vnni": "avx512vnni",
        "avx512_vpopcntdq": "avx512vpopcntdq",
        "avx_vnni": "avxvnni",
        "avx_vnni_int8": "avxvnniint8",
        "bmi1": "bmi",
        "pclmulqdq": "pclmul",
        "pni": "sse3",
        "sse4_1": "sse4.1",
        "sse4_2": "sse4.2",
    },
    "aarch64": {
        "asimd": "neon",
        "asimddp": "dotprod",
        "asimdhp": "fullfp16",
        "asimdrdm": "rdm",
        "atomics": "lse",
        "crc32": "crc",
        "fp": "fp-armv8",
    },
}

_AT_HWCAP, _AT_HWCAP2 = 16, 26
"""Keys of ``getauxval``: Linux's include/uapi/linux/auxvec.h."""

_HWCAP = {0: "fp", 1: "asimd", 3: "aes", 6: "sha2", 7: "crc32", 8: "atomics", 9: "fphp", 10: "asimdhp", 12: "asimdrdm"}
_HWCAP |= {14: "fcma", 15: "lrcpc", 20: "asimddp", 22: "sve", 23: "asimdfhm"}
_HWCAP2 = {1: "sve2", 9: "svei8mm", 13: "i8mm", 14: "bf16", 23: "sme"}
"""Bit to Linux's name of the feature: arch/arm64/include/uapi/asm/hwcap.h, those that kernels may use."""

_APPLE_TO_LLVM = {
    "hw.optional.AdvSIMD": "neon",
    "hw.optional.neon": "neon",
    "hw.optional.arm.AdvSIMD": "neon",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_DotProd": "dotprod",
    "hw.optional.arm.FEAT_FP16": "fullfp16",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_LSE": "lse",
    "hw.optional.arm.FEAT_SME": "sme",
}

_BASELINE = {"x86_64": frozenset({"sse", "sse2"}), "aarch64": frozenset({"neon", "fp-armv8"})}


def machine() -> str:
    """The architecture: ``x86_64``, ``aarch64``, or what the system calls it in lower case.

    It is that of this process: a 32-bit Python on a 64-bit ARM kernel (32-bit Raspberry Pi OS) is ``armv7l``.
    """
    name = platform.machine().lower()
    name = _MACHINES.get(name, name)
    return "armv7l" if name == "aarch64" and sys.maxsize < 2**32 else name


def system() -> str:
    """The operating system: ``linux``, ``darwin`` or ``windows``."""
    return platform.system().lower()


@functools.cache
def cpu_features() -> frozenset[str]:
    """Features of this CPU that code may use, in LLVM's spelling; a core that lacks one removes it.

    Where the system does not tell (neither Linux nor macOS), those that the architecture guarantees. AMX counts where
    Linux lets this process use it: it is asked here.
    """
    if system() == "linux" and machine() == "aarch64":
        found = parse_hwcap(*_auxiliary_values(_AT_HWCAP, _AT_HWCAP2))
    elif system() == "linux":
        found = parse_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"), machine())
        found -= withheld()
    elif system() == "darwin":
        listing = subprocess.run(["/usr/sbin/sysctl", "-a"], capture_output=True, text=True, check=False, timeout=10)
        found = parse_sysctl(listing.stdout)
    else:
        found = frozenset()
    return found | _BASELINE.get(machine(), frozenset())


@functools.cache
def withheld() -> frozenset[str]:
    """Features of this CPU that the operating system keeps from this process: AMX, where Linux refuses it."""
    if (system(), machine()) != ("linux", "x86_64"):
        return frozenset()
    found = parse_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"), machine())
    tiles = frozenset(name for name in found if name.startswith("amx-"))
    return tiles if tiles and amx.refusal() else frozenset()


@functools.cache
def cpu_name() -> str:
    """The CPU's name for people, such as ``Intel(R) Xeon(R) Platinum 8481C``; of an ARM board the board's name."""
    if system() == "linux" and machine() == "aarch64":
        return _board_name() or machine()
    if system() == "linux":
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or machine()


@functools.cache
def cpu_model() -> str:
    """What tells this processor from others, also where a virtual machine hides its name.

    On x86 Linux ``VENDOR family N model N``, which all processors of one design share; elsewhere `cpu_name`.
    """
    if (system(), machine()) == ("linux", "x86_64"):
        return parse_cpu_model(Path("/proc/cpuinfo").read_text(errors="replace")) or cpu_name()
    return cpu_name()


def parse_cpu_model(text: str) -> str | None:
    r"""Vendor, family and model in the text of an x86 Linux's ``/proc/cpuinfo``; None where one is missing.

    Example:
        >>> parse_cpu_model("vendor_id: AuthenticAMD\ncpu family: 25\nmodel: 1\nmodel name: AMD EPYC")
        'AuthenticAMD family 25 model 1'
    """
    found = [
        re.search(rf"^{name}[ \t]*:[ \t]*(\S+)$", text, re.MULTILINE) for name in ("vendor_id", "cpu family", "model")
    ]
    words = [match[1] for match in found if match]
    return f"{words[0]} family {words[1]} model {words[2]}" if len(words) == len(found) else None


def logical_cores() -> int:
    """Processors that this process may run on, two for a core with hyper-threading."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores() -> int:
    """Cores that this process may run on, hyper-threads of one core counted once where Linux tells them."""
    if not hasattr(os, "sched_getaffinity"):
        return logical_cores()
    siblings = Path("/sys/devices/system/cpu")
    groups = set()
    for number in os.sched_getaffinity(0):
        listing = siblings / f"cpu{number}/topology/thread_siblings_list"
        groups.add(listing.read_text() if listing.exists() else str(number))
    return len(groups)


def normalise(names: Iterable[str], architecture: str) -> frozenset[str]:
    """Features in LLVM's spelling, from Linux's or LLVM's.

    Example:
        >>> sorted(normalise(["avx512_vnni", "avx2"], "x86_64"))
        ['avx2', 'avx512vnni']
    """
    table = _LINUX_TO_LLVM.get(architecture, {})
    return frozenset(table.get(name, name) for name in names)


def parse_cpuinfo(text: str, architecture: str) -> frozenset[str]:
    """Features in the text of Linux's ``/proc/cpuinfo``, those that every processor has.

    Args:
        text: with ``flags : ...`` (x86) or ``Features : ...`` (ARM) once for each processor.
        architecture: as `machine` gives it.
    """
    lists = re.findall(r"^(?:flags|Features)[ \t]*:(.*)$", text, re.MULTILINE)
    common = set.intersection(*(set(names.split()) for names in lists)) if lists else set()
    return normalise(common, architecture)


def parse_hwcap(hwcap: int, hwcap2: int) -> frozenset[str]:
    """Features in the capability bits of a 64-bit ARM Linux, those that every core has.

    Args:
        hwcap: value of ``getauxval(AT_HWCAP)``.
        hwcap2: value of ``getauxval(AT_HWCAP2)``.
    """
    names = {name for bit, name in _HWCAP.items() if hwcap >> bit & 1}
    names |= {name for bit, name in _HWCAP2.items() if hwcap2 >> bit & 1}
    return normalise(names, "aarch64")


def parse_sysctl(text: str) -> frozenset[str]:
    """Features in the output of macOS's ``sysctl -a``: both of Apple's and of Intel's processors."""
    features: set[str] = set()
    for line in text.splitlines():
        key, _, value = line.partition(": ")
        if key in _APPLE_TO_LLVM and value.strip() == "1":
            features.add(_APPLE_TO_LLVM[key])
        elif key in ("machdep.cpu.features", "machdep.cpu.leaf7_features"):
            # Intel Macs write AVX1.0 for AVX; the rest differs from LLVM's spelling in case alone.
            features.update({"avx1.0": "avx", "bmi1": "bmi"}.get(name, name) for name in value.lower().split())
    return frozenset(features)


def _auxiliary_values(*keys: int) -> list[int]:
    """What the kernel told this process when it started it."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.argtypes, getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
    return [getauxval(key) for key in keys]


def _board_name() -> str:
    """Such as ``Raspberry Pi 4 Model B Rev 1.4``; empty where the system has no device tree."""
    path = Path("/proc/device-tree/model")
    return path.read_text(errors="replace").strip("\0\n ") if path.exists() else ""
