"""Numbers of things in messages."""

from __future__ import annotations


def counted(count: int, one: str) -> str:
    """A number of things, in words that fit the number.

    Args:
        count: how many.
        one: what one of them is called; several have an s or es behind.

    Example:
        >>> counted(1, "sample"), counted(0, "sample"), counted(45728000, "code"), counted(2, "pass")
        ('1 sample', '0 samples', '45,728,000 codes', '2 passes')
    """
    ending = "" if count == 1 else "es" if one.endswith("s") else "s"
    return f"{count:,} {one}{ending}"
