"""Narrower and wider forms of a network."""

from __future__ import annotations

MULTIPLE = 8


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8 and at least 8.

    Example:
        >>> scaled(64, 1.0), scaled(64, 0.4), scaled(16, 0.1)
        (64, 24, 8)
    """
    return max(MULTIPLE, MULTIPLE * round(channels * width / MULTIPLE))
