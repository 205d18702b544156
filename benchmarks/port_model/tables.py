"""Tables of the model in Markdown, for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Report = list[dict[str, Any]]
"""Cores as benchmarks/arm_model.py prints them with --json."""


def markdown(report: Report) -> str:
    """All tables."""
    return "\n\n".join([bounds(report), projections(report), *(layers(core) for core in report)])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def bounds(report: Report) -> str:
    """MACs per cycle of loops written by hand, by core."""
    rows = []
    for core in report:
        best = []
        for kind in ("fp32", "int8", "popcount"):
            name, rate = max(core["bounds"][kind].items(), key=lambda item: item[1])
            best.append(f"{rate:.1f} ({name.removeprefix(kind).strip()})")
        rows.append((core["core"], f"{core['ghz']}", *best))
    return table(("core", "GHz", "fp32", "int8", "W1A1 popcount"), rows)


def projections(report: Report) -> str:
    """Time of all layers of a network on one core, and of peers at their bounds."""
    rows = []
    for core in report:
        for network in core["networks"]:
            ms = network["ms"]
            ours = ms["lqcompile"]
            times = [f"{ms[peer]:.1f} ({ms[peer] / ours:.1f})" for peer in ("int8 bound", "fp32 bound")]
            rows.append((core["core"], network["network"], network["bits"], f"{ours:.1f}", *times))
    return table(("core", "network", "bits", "lqcompile, ms", "int8 bound (ratio)", "fp32 bound (ratio)"), rows)


def layers(core: dict[str, Any]) -> str:
    """Every layer of the networks at every number of bits on one core."""
    networks = core["networks"]
    every_bits = list(dict.fromkeys(network["bits"] for network in networks))
    cells: dict[str, dict[str, str]] = {}
    for network in networks:
        for row in network["layers"]:
            label = f"{row['family']} {row['inner']:.1f} ({100 * row['fraction']:.0f} %), {row['whole']:.1f}"
            cells.setdefault(row["layer"], {})[network["bits"]] = label
    rows = [(name, *(found.get(bits, "") for bits in every_bits)) for name, found in cells.items()]
    return table((core["core"], *every_bits), rows)
