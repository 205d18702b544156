"""The layers of a profile as the template takes them: arranged, and put into words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lqcompile.reporting import words

FAMILIES = ("popcount", "lut", "dot8", "planes", "b1mma", "b1wgmma", "i8mma", "packed", "float")
"""Kernel families that have a colour of their own in the style sheet."""

OTHER = "other"
"""The colour of all others."""

STRIPS = (
    ("Time", "the time of one sample", lambda layer: layer["time"]["median_us"], words.duration),
    (
        "Multiplications",
        "multiply-accumulates",
        lambda layer: _of_work(layer, "macs"),
        lambda n: words.scaled(n, "MAC"),
    ),
    ("Weights", "bytes of weights in the model", lambda layer: _of_work(layer, "packed_bytes"), words.size),
)
"""Strips of the network: name, what is shown, the figure of a layer, and how it is written."""


def colour(kernel: str | None) -> str:
    """Name of the colour of a kernel family; regions that compute nothing have none."""
    return "none" if kernel is None else kernel if kernel in FAMILIES else OTHER


def layers(profile: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the table of layers."""
    longest = max(layer["time"]["median_us"] for layer in profile["layers"]) or 1.0
    missing = "no peak known" if profile["totals"]["fraction_of_bound"] is not None else ""
    rows = []
    for number, layer in enumerate(profile["layers"], start=1):
        work, time, sizes = layer["work"], layer["time"], layer["bytes"]
        bound = work and work["bound"]
        rows.append(
            {
                "number": number,
                "name": layer["name"],
                "op": layer["op"],
                "kernel": work["kernel"] if work else None,
                "colour": colour(work["kernel"] if work else None),
                "shape": words.shape(work) if work else "",
                "bits": words.bits(work) if work else "",
                "fused": words.fused(layer["fused"]),
                "time": words.duration(time["median_us"]),
                "spread": f"{words.duration(time['p10_us'])} to {words.duration(time['p90_us'])}",
                "bar": 100 * time["median_us"] / longest,
                "least_bar": min(100.0, 100 * bound["us"] / longest) if bound else None,
                "share": words.percent(layer["share"]),
                "macs": words.scaled(work["macs"], "MAC") if work else "",
                "macs_per_s": words.rate(work["macs_per_s"], "MAC") if work else "",
                "bit_operations_per_s": words.rate(work["bit_operations_per_s"], "") if work else "",
                "of_bound": words.percent(work["fraction_of_bound"]) if bound else missing if work else "",
                "bound": f"at best {words.duration(bound['us'])} ({_bound_by(bound['by'])})" if bound else "",
                "parameters": words.size(sizes["parameters"]),
                "read": words.size(sizes["read"]),
                "written": words.size(sizes["written"]),
                "footprint": words.size(layer["footprint_bytes"]),
                "level": layer["footprint_level"] or "unknown",
            }
        )
    return rows


def sums(profile: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What the times of the layers lack to that of the network: name, time, share."""
    whole_us = 1e3 * profile["whole"]["median_ms"]
    parts = (
        ("all layers", sum(layer["time"]["median_us"] for layer in profile["layers"])),
        *([] if words.on_gpu(profile) else [("a call into the code", profile["call_us"])]),
        ("interruptions", profile["interruptions_us"]),
        ("unaccounted for", profile["unaccounted_us"]),
        ("the network", whole_us),
    )
    return [(name, words.duration(us), words.percent(us / whole_us)) for name, us in parts]


def strips(profile: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Strips on which each layer is as wide as its part of something."""
    found = []
    for name, what, figure, write in STRIPS:
        values = [figure(layer) for layer in profile["layers"]]
        total = sum(values)
        parts = [
            {
                "number": number,
                "name": layer["name"],
                "colour": colour(layer["work"]["kernel"] if layer["work"] else None),
                "share": 100 * value / total,
                "label": f"{layer['name']}: {write(value)}, {words.percent(value / total)}",
            }
            for number, (layer, value) in enumerate(zip(profile["layers"], values, strict=True), start=1)
            if value > 0
        ]
        found.append({"name": name, "what": what, "total": write(total), "parts": parts if total else []})
    return found


def legend(profile: Mapping[str, Any]) -> list[dict[str, str]]:
    """Kernel families in use: colour, name, number of layers and part of the time."""
    found: dict[str | None, list[float]] = {}
    for layer in profile["layers"]:
        found.setdefault(layer["work"]["kernel"] if layer["work"] else None, []).append(layer["share"])
    return [
        {
            "colour": colour(kernel),
            "name": kernel or "between layers",
            "detail": f"{len(shares)} {'layer' if kernel else 'step'}{'s' * (len(shares) > 1)}, "
            f"{words.percent(sum(shares))}",
        }
        for kernel, shares in sorted(found.items(), key=lambda item: -sum(item[1]))
    ]


def choices(profile: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Layers that had a choice: why, and the bars of what they could have run as; equal layers share an entry."""
    found: dict[str, dict[str, Any]] = {}
    for number, layer in enumerate(profile["layers"], start=1):
        work = layer["work"]
        if work is None or not work["alternatives"]:
            continue
        facts = {
            "shape": words.shape(work),
            "bits": words.bits(work),
            "reason": work["reason"],
            "source": work["alternatives_from"],
            "bars": _bars(work),
        }
        entry = found.setdefault(repr(facts), {**facts, "layers": []})
        entry["layers"].append((number, layer["name"]))
    return list(found.values())


def _bars(work: Mapping[str, Any]) -> list[dict[str, Any]]:
    slowest = max(entry["times"] for entry in work["alternatives"])
    return [
        {
            "kernel": entry["kernel"],
            "colour": colour(entry["kernel"]),
            "chosen": entry["kernel"] == work["kernel"],
            "width": 100 * entry["times"] / slowest,
            "text": f"{entry['times']:.2f}{words.TIMES}"
            + (f", {words.duration(entry['us'])}" if entry["us"] is not None else ""),
        }
        for entry in work["alternatives"]
    ]


def without_choice(profile: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Reasons for which there was no choice, each with the layers."""
    found: dict[str, list[str]] = {}
    for layer in profile["layers"]:
        if layer["work"] and not layer["work"]["alternatives"]:
            found.setdefault(f"{layer['work']['kernel']}: {layer['work']['reason']}", []).append(layer["name"])
    return list(found.items())


def bits_in_words(profile: Mapping[str, Any]) -> str:
    """The formats of the layers, those of most multiplications first: ``W2A2, W8A8``."""
    found: dict[str, int] = {}
    for layer in profile["layers"]:
        if layer["work"]:
            name = words.bits(layer["work"])
            found[name] = found.get(name, 0) + layer["work"]["macs"]
    ordered: Sequence[str] = sorted(found, key=lambda name: -found[name])
    return ", ".join(ordered)


def _of_work(layer: Mapping[str, Any], key: str) -> int:
    return int(layer["work"][key]) if layer["work"] else 0


def _bound_by(by: str) -> str:
    return by if by == "arithmetic" else f"weights from {by}"
