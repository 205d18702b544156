"""Memory planned ahead: one arena for everything between kernels, so that an inference allocates nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64
"""Bytes; a cache line, and what vector loads of every target may assume."""


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """A tensor in the arena: `size_bytes` from step `first` to step `last`, both inclusive."""

    key: str
    size_bytes: int
    first: int
    last: int


def plan_arena(lifetimes: Sequence[Lifetime]) -> tuple[dict[str, int], int]:
    """Offsets in bytes and the size of the arena: largest tensors first, each at the lowest free place.

    Example:
        >>> a = Lifetime(key="a", size_bytes=64, first=0, last=1)
        >>> b = Lifetime(key="b", size_bytes=64, first=1, last=2)
        >>> c = Lifetime(key="c", size_bytes=64, first=2, last=3)
        >>> plan_arena([a, b, c])
        ({'a': 0, 'b': 64, 'c': 0}, 128)
    """
    placed: list[tuple[Lifetime, int]] = []
    offsets: dict[str, int] = {}
    for item in sorted(lifetimes, key=lambda entry: (-entry.size_bytes, entry.first)):
        busy = sorted(
            (offset, offset + _aligned(other.size_bytes))
            for other, offset in placed
            if other.first <= item.last and item.first <= other.last
        )
        offset = 0
        for start, end in busy:
            if offset + _aligned(item.size_bytes) <= start:
                break
            offset = max(offset, end)
        placed.append((item, offset))
        offsets[item.key] = offset
    total = max((offset + _aligned(item.size_bytes) for item, offset in placed), default=0)
    return offsets, total


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
