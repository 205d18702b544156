"""Under which conditions a measurement is taken: clock, governor, temperature, throttling, emulation.

What the operating system does not tell is None. Everything is read below a root folder, so that tests can make one up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path("/")

_CPUS = "sys/devices/system/cpu"

_SANE_CELSIUS = (-40.0, 150.0)
"""Zones that are switched off report values far outside."""


def conditions(root: Path = ROOT) -> dict[str, Any]:
    """The state of the machine now.

    Returns:
        ``clock_mhz`` [of each CPU], ``governor`` (of the first CPU), ``temperature_c`` (of the hottest thermal zone)
        and ``throttled`` (the firmware's flags on a Raspberry Pi, ``0x0`` for none), each None where unknown.
    """
    clocks = [_number(path) for path in sorted(root.glob(f"{_CPUS}/cpu[0-9]*/cpufreq/scaling_cur_freq"))]
    heat = [_number(path) for path in root.glob("sys/class/thermal/thermal_zone*/temp")]
    celsius = [value / 1e3 for value in heat if value is not None]
    low, high = _SANE_CELSIUS
    flags = _text(root / "sys/devices/platform/soc/soc:firmware/get_throttled")
    return {
        "clock_mhz": [round(value / 1e3) for value in clocks if value is not None] or None,
        "governor": _text(root / _CPUS / "cpu0/cpufreq/scaling_governor"),
        "temperature_c": max((value for value in celsius if low < value < high), default=None),
        "throttled": hex(int(flags, 16)) if flags is not None else None,
    }


def state_in_words(state: Mapping[str, Any]) -> str:
    """What `conditions` gives in words; what the operating system does not tell is named too."""
    clocks = state["clock_mhz"]
    words = ["clock unknown" if clocks is None else f"clock {'/'.join(str(mhz) for mhz in sorted(set(clocks)))} MHz"]
    words.append("governor unknown" if state["governor"] is None else f"governor {state['governor']}")
    heat = state["temperature_c"]
    words.append("temperature unknown" if heat is None else f"{heat:.1f} \N{DEGREE SIGN}C")
    if state["throttled"] not in (None, "0x0"):
        words.append(f"THROTTLED ({state['throttled']})")
    return ", ".join(words)


def emulator(machine: str, root: Path = ROOT) -> str | None:
    """The emulator that this process runs in; None on a machine of its own, also a virtual one.

    qemu-user shows the program the host's ``/proc``, where the process bears the name of the emulator and, in versions
    that do not make one up, the CPU is the host's. A whole emulated machine names its CPU ``QEMU TCG``.

    Args:
        machine: architecture, as `lqcompile.cpu.machine` gives it.
        root: folder that holds ``proc``.
    """
    if (_text(root / "proc/self/comm") or "").startswith("qemu-"):
        return "qemu-user"
    cpuinfo = _text(root / "proc/cpuinfo") or ""
    if not machine.startswith("x86") and re.search(r"^vendor_id\s*:\s*(GenuineIntel|AuthenticAMD)", cpuinfo, re.M):
        return "qemu-user"
    if re.search(r"^model name\s*:.*QEMU TCG", cpuinfo, re.M):
        return "qemu-system"
    return None


def _text(path: Path) -> str | None:
    """What a file of the system says; None where there is no such file, or the driver gives an error."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text and re.fullmatch(r"-?\d+", text) else None
