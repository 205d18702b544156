"""Sections of a Markdown page that are written by a program."""

from __future__ import annotations

from pathlib import Path


def write_section(path: Path, name: str, text: str) -> None:
    """Put `text` between the lines ``<!-- NAME: begin -->`` and ``<!-- NAME: end -->``.

    Raises:
        ValueError: the file lacks them.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = path.read_text(encoding="utf-8")
    start, stop = old.find(begin), old.find(end)
    if not 0 <= start < stop:
        raise ValueError(f"{path}: found no lines '{begin}' and '{end}', expected both")
    path.write_text(f"{old[: start + len(begin)]}\n\n{text}\n{old[stop:]}", encoding="utf-8")
