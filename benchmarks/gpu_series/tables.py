"""Results of a series as Markdown, for people and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LAYERS_OF = (("resnet18", 1, "W2A2"), ("resnet18", 256, "W2A2"), ("resnet18", 256, "W1A1"))
"""Network, batch and width whose layers are tabled."""

CHOSEN = {"table": "the cost table", "measure": "measuring them"}


def markdown(data: dict[str, Any]) -> str:
    """Everything that was measured; parts that were not are said to be missing."""
    machine = data["machine"]
    head = (
        f"{machine['gpu']}, driver for CUDA {machine['driver']}, {data.get('measured', 'nothing measured')}; lqcompile "
        f"{machine['lqcompile']} built for `{machine['target']}`, kernels chosen by {CHOSEN[machine['select']]}, torch "
        f"{machine['torch']}."
    )
    text = [
        head,
        "",
        *_peaks(data["peaks"]),
        *_gemm(data["gemm"]),
        *_networks(data["networks"]),
    ]
    for network, batch, width in LAYERS_OF:
        cell = data["networks"].get(f"{network} {batch}")
        if cell is not None and width in cell["ours"]:
            text += _layers(f"{network} {width}, batch {batch}: layer by layer", cell["ours"][width]["layers"])
    return "\n".join(text)


def _peaks(peaks: dict[str, Any]) -> list[str]:
    if not peaks:
        return ["Peaks: not measured.", ""]
    rows = [
        (peak["what"], _rate(peak["best"], peak["unit"]), _rate(peak["median"], peak["unit"]))
        for peak in peaks.values()
    ]
    return ["### Measured peaks", "", *_table(("instruction", "best", "median"), rows)]


def _gemm(cells: dict[str, Any]) -> list[str]:
    if not cells:
        return ["Square products: not measured.", ""]
    rows = []
    for size, entries in cells.items():
        for name, entry in entries.items():
            rows.append(
                (
                    size,
                    name,
                    entry["kernel"],
                    f"{entry['ms']:.3f} ± {_percent(entry['uncertainty'])}",
                    _rate(entry["macs"] / (entry["ms"] / 1e3), "MAC/s"),
                    _percent(entry["of_peak"]),
                    *(_times(entries, peer, entry["ms"]) for peer in ("int8", "fp16")),
                    str(entry.get("wrong_codes", "")),
                )
            )
    names = ("size", "codes", "kernel", "ms", "products", "of the peak", "int8 takes", "fp16 takes", "wrong codes")
    return ["### Square matrix products", "", *_table(names, rows)]


def _networks(cells: dict[str, Any]) -> list[str]:
    if not cells:
        return ["Networks: not measured.", ""]
    peers = list(dict.fromkeys(name for cell in cells.values() for name in cell["peers"]))
    rows = []
    for key, cell in cells.items():
        network, _, batch = key.partition(" ")
        for width, entry in cell["ours"].items():
            found = [
                f"{cell['peers'][name]['ms']:.3f} ({entry['ratio'][name]:.2f})" if name in cell["peers"] else "-"
                for name in peers
            ]
            rows.append((network, batch, width, f"{entry['ms']:.3f} ± {_percent(entry['uncertainty'])}", *found))
    text = ["### Networks: ms, and times as long as lqcompile", ""]
    text += _table(("network", "batch", "codes", "lqcompile ms", *peers), rows)
    what = {name: peer["what"] for cell in cells.values() for name, peer in cell["peers"].items()}
    text += [f"- {name}: {words}" for name, words in what.items()]
    absent: dict[str, list[str]] = {}
    for key, cell in cells.items():
        for name, reason in cell["absent"].items():
            absent.setdefault(f"{name}: {reason}", []).append(key)
    for line, keys in absent.items():
        text.append(f"- not there: {line}" + ("" if len(keys) == len(cells) else f" ({', '.join(keys)})"))
    return [*text, ""]


def _layers(title: str, layers: Sequence[dict[str, Any]]) -> list[str]:
    rows = [
        (
            layer["name"],
            layer.get("kernel", ""),
            f"{1e3 * layer['ms']:.1f}",
            f"{layer['macs'] / 1e6:.0f}" if "macs" in layer else "",
            _percent(layer.get("of_peak")),
            _percent(layer["of_memory"]),
        )
        for layer in layers
    ]
    return [f"### {title}", "", *_table(("layer", "kernel", "us", "MMAC", "of the peak", "of the memory's rate"), rows)]


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    head = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return [*head, *(f"| {' | '.join(row)} |" for row in rows), ""]


def _rate(per_s: float, unit: str) -> str:
    """Multiply-accumulates count as two operations, as makers of GPUs count."""
    return f"{2 * per_s / 1e12:.0f} TOPS" if unit == "MAC/s" else f"{per_s / 1e9:.0f} GB/s"


def _percent(part: float | None) -> str:
    return "" if part is None else f"{100 * part:.1f} %"


def _times(entries: dict[str, Any], peer: str, own_ms: float) -> str:
    return f"{entries[peer]['ms'] / own_ms:.2f} x" if peer in entries else "-"
