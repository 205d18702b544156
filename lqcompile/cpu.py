"""What the CPU of this machine can do, asked of the operating system.

LLVM does not know every virtual machine (it takes a Sapphire Rapids guest for a Rocket Lake), so the features are read
from the system and spelled as LLVM spells them. TVM is not needed.
"""

from __future__ import annotations

import functools
import platform
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

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
    """The architecture: ``x86_64``, ``aarch64``, or what the system calls it in lower case."""
    name = platform.machine().lower()
    return _MACHINES.get(name, name)


def system() -> str:
    """The operating system: ``linux``, ``darwin`` or ``windows``."""
    return platform.system().lower()


@functools.cache
def cpu_features() -> frozenset[str]:
    """Features of this CPU that code may use, in LLVM's spelling; a core that lacks one removes it.

    Where the system does not tell (neither Linux nor macOS), those that the architecture guarantees.
    """
    if system() == "linux":
        found = parse_cpuinfo(Path("/proc/cpuinfo").read_text(errors="replace"), machine())
    elif system() == "darwin":
        listing = subprocess.run(["/usr/sbin/sysctl", "-a"], capture_output=True, text=True, check=False, timeout=10)
        found = parse_sysctl(listing.stdout)
    else:
        found = frozenset()
    return found | _BASELINE.get(machine(), frozenset())


@functools.cache
def cpu_name() -> str:
    """The CPU's name for people, such as ``Intel(R) Xeon(R) Platinum 8481C``."""
    if system() == "linux":
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or machine()


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
