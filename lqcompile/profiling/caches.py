"""Data caches of this machine, as Linux tells them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")

MEMORY = "memory"
"""What lies behind the last cache."""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """A data cache, or one for data and instructions.

    Args:
        level: 1 is the closest to the core.
        bytes: its size.
        cores: processors that share it.
    """

    level: int
    bytes: int
    cores: int

    @property
    def name(self) -> str:
        """Such as ``L2``."""
        return f"L{self.level}"


def read_caches(root: Path = ROOT) -> list[Cache]:
    """The caches of the first processor, from the closest on; empty where the system does not tell.

    Args:
        root: folder that holds ``sys``.
    """
    found = []
    for folder in sorted(root.glob("sys/devices/system/cpu/cpu0/cache/index[0-9]*")):
        kind, level, size = (_text(folder / name) for name in ("type", "level", "size"))
        shared = _text(folder / "shared_cpu_list")
        number = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind not in ("Data", "Unified") or not level.isdigit() or number is None:
            continue
        unit = {"": 0, "K": 10, "M": 20, "G": 30}[number[2]]
        found.append(Cache(level=int(level), bytes=int(number[1]) << unit, cores=_count(shared)))
    return sorted((cache for cache in found if cache.bytes), key=lambda cache: cache.level)


def level_of(size: int, caches: Sequence[Cache]) -> str:
    """The closest level that holds `size` bytes: the name of a cache, or `MEMORY`."""
    return next((cache.name for cache in caches if size <= cache.bytes), MEMORY)


def _text(path: Path) -> str:
    """What a file of the system says; empty where there is no such file."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _count(listing: str) -> int:
    """Processors in a list such as ``0-3,8``; 1 where there is none."""
    count = 0
    for part in filter(None, listing.split(",")):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count or 1
