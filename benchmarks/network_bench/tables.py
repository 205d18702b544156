"""Results as tables for people, as Markdown for docs/performance.md, and as a plot."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Result = dict[str, Any]

BEGIN, END = "<!-- networks: begin -->", "<!-- networks: end -->"
"""Lines of docs/performance.md between which `write_section` puts its text."""


def bits(result: Result) -> str:
    """Such as W2A2, or W2/32."""
    separator = "/" if result["act_bits"] == 32 else "A"
    return f"W{result['weight_bits']}{separator}{result['act_bits']}"


def title(result: Result) -> str:
    """What was measured."""
    held = f", both sides held to {result['isa']}" if result["isa"] else ""
    return f"{result['network']} {bits(result)}, batch 1, threads: {result['threads']}{held}; {result['cpu']}"


def share(row: Result) -> str:
    """Of the bound, where there is one."""
    return f"{row['fraction_of_bound']:.0%}" if "fraction_of_bound" in row else ""


def show(result: Result, console: Console) -> None:
    """Print one result."""
    times = Table("", "ms", "times as long", title=title(result))
    for name, value in result["median_ms"].items():
        times.add_row(name, f"{value:.3f}", f"{result['ratio'].get(name, 1.0):.2f}")
    console.print(times)
    layers = Table("layer", "kernel", "why", "us", "MMAC", "GMAC/s", "of the bound", title="Layer by layer")
    for row in result["layers"]:
        if "macs" in row:
            layers.add_row(
                row["name"],
                row["kernel"],
                row["reason"],
                f"{row['us']:.0f}",
                f"{row['macs'] / 1e6:.1f}",
                f"{row['gmac_per_s']:.0f}",
                share(row),
            )
        else:
            layers.add_row(row["name"], "", "", f"{row['us']:.0f}", "", "", "")
    console.print(layers)
    console.print(
        f"Medians of {result['rounds']} interleaved rounds, of layers the best. Weights: {result['weights']}. "
        f"Built for {result['target']} in {result['build_s']} s, {result['artifact_bytes'] / 1e6:.1f} MB."
    )
    for name, counts in result["openvino_precisions"].items():
        console.print(f"{name} runs its convolutions and products in {counts}.")
    for name, peak in result.get("peak_mb", {}).items():
        console.print(f"Peak memory of {name}: {peak['peak']:.0f} MB, of which interpreter {peak['interpreter']:.0f}.")


def markdown(results: Sequence[Result]) -> str:
    """One table per instruction set and number of threads."""
    text = []
    groups = dict.fromkeys((result["isa"], result["threads"]) for result in results)
    for isa, threads in groups:
        rows = [result for result in results if (result["isa"], result["threads"]) == (isa, threads)]
        peers = list(dict.fromkeys(name for row in rows for name in row["ratio"]))
        held = f"held to {isa}" if isa else f"as fast as it can ({rows[0]['target']})"
        text += [
            f"### {rows[0]['cpu']}, {held}, threads: {threads}",
            "",
            f"| network | bits | lqcompile ms | {' | '.join(peers)} | build s |",
            f"|---|---|---|{'---|' * len(peers)}---|",
        ]
        for row in rows:
            cells = [f"{row['median_ms'][name]:.2f} ({row['ratio'][name]:.2f})" for name in peers]
            text.append(
                f"| {row['network']} | {bits(row)} | {row['median_ms']['lqcompile']:.2f} | {' | '.join(cells)} | "
                f"{row['build_s']} |"
            )
        text.append("")
    return "\n".join(text)


def layer_markdown(result: Result) -> str:
    """The layers of one result."""
    text = [
        f"### {title(result)}: layer by layer",
        "",
        "| layer | kernel | us | MMAC | GMAC/s | of the bound |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["layers"]:
        if "macs" in row:
            rate = f"{row['macs'] / 1e6:.1f} | {row['gmac_per_s']:.0f} | {share(row)}"
            text.append(f"| {row['name']} | {row['kernel']} | {row['us']:.0f} | {rate} |")
        else:
            text.append(f"| {row['name']} | | {row['us']:.0f} | | | |")
    return "\n".join([*text, ""])


def write_section(path: Path, text: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put `text` between two marks of a Markdown file.

    Raises:
        ValueError: the file lacks them.
    """
    old = path.read_text(encoding="utf-8")
    begin, finish = marks
    start, end = old.find(begin), old.find(finish)
    if not 0 <= start < end:
        raise ValueError(f"{path}: found no lines '{begin}' and '{finish}', expected both")
    path.write_text(f"{old[: start + len(begin)]}\n\n{text}\n{old[end:]}", encoding="utf-8")


def plot(results: Sequence[Result], peer: str, path: Path) -> None:
    """Bars: how many times as long `peer` takes, per network and bits, one file for one group of results."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "lqcompile"  # the same file from the same figures
    from matplotlib import pyplot

    networks = list(dict.fromkeys(result["network"] for result in results))
    kinds = list(dict.fromkeys(bits(result) for result in results))
    figure, axes = pyplot.subplots(figsize=(1.6 + 1.5 * len(networks), 3.2), layout="constrained")
    width = 0.8 / len(kinds)
    for index, kind in enumerate(kinds):
        found = {result["network"]: result["ratio"].get(peer) for result in results if bits(result) == kind}
        heights = [found.get(network) or 0.0 for network in networks]
        places = [place + (index - (len(kinds) - 1) / 2) * width for place in range(len(networks))]
        axes.bar(places, heights, width * 0.92, label=kind)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(networks)), networks)
    axes.set_ylabel(f"times as fast as {peer}")
    axes.legend(frameon=False, ncols=len(kinds))
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
