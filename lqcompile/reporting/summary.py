"""What a report says of a network as a whole: its figures, memory, peers, equality, and the machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lqcompile.conditions import state_in_words
from lqcompile.reporting import words
from lqcompile.target import find
from lqcompile.wording import counted


def sizes(profile: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bars of what the weights take."""
    held = profile["size"]
    parts = (
        ("float32", held["float32_bytes"], "float"),
        ("int8", held["int8_bytes"], "int8"),
        ("in the model file, packed", held["packed_bytes"], "ours"),
        ("as kernels hold them, with thresholds", held["parameter_bytes"], "ours"),
    )
    most = max(count for _, count, _ in parts) or 1
    return [
        {
            "name": name,
            "size": words.size(count),
            "width": 100 * count / most,
            "ratio": f"{held['float32_bytes'] / count:.1f}{words.TIMES} smaller" if 0 < count < most else "",
            "colour": kind,
        }
        for name, count, kind in parts
    ]


def memory(profile: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Other sizes, and the caches that they meet."""
    held, machine = profile["size"], profile["machine"]
    working = held["parameter_bytes"] + held["arena_bytes"]
    levels = [f"L{cache['level']}" for cache in machine["caches"] if working <= cache["bytes"]]
    place = f"fits into {levels[0]}" if levels else "fits into no cache" if machine["caches"] else "caches unknown"
    return [
        ("Activations while it runs (arena)", words.size(held["arena_bytes"])),
        ("Parameters and activations together", f"{words.size(working)}, {place}"),
        ("Model file (ONNX)", words.size(profile["artifact"]["onnx"]["bytes"])),
        ("Artifact, code for all variants in it", words.size(profile["artifact"]["bytes"])),
    ]


def machine(profile: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What it was measured on."""
    found, artifact, before = profile["machine"], profile["artifact"], profile["conditions"]["before"]
    gpu = words.on_gpu(profile)
    known = "at most, as the driver tells" if gpu else "measured"
    caches = ", ".join(
        f"L{cache['level']} {words.cache_size(cache['bytes'])}"
        + (f" for {cache['cores']} {'multi' * gpu}processors" if cache["cores"] > 1 else "")
        for cache in found["caches"]
    )
    speeds = ", ".join(f"{level} {speed / 1e9:.0f}" for level, speed in found["bytes_per_s"].items())
    return [
        ("Where", found["name"]),
        ("GPU", f"{found['cpu']}, {words.workers(profile)}")
        if gpu
        else ("CPU", f"{found['cpu']} ({found['machine']}), {found['cores']} cores, {words.workers(profile)} used"),
        (f"Clock, {known}", f"{found['clock_hz'] / 1e9:.2f} GHz"),
        ("Caches", caches or "unknown"),
        (f"GB/s read, {known}", speeds),
        ("System", found["os"]),
        ("State before", state_in_words(before)),
        ("State after", state_in_words(profile["conditions"]["after"])),
        ("Code for", f"{artifact['variant']} (target {artifact['target']})"),
        ("Built by", f"lqcompile {artifact['lqcompile']}, {_versions(artifact['tools'])}"),
        ("Run by", _versions(found["versions"])),
        (
            f"{'Architecture' if gpu else 'CPU features'} that the code uses",
            ", ".join(find(artifact["variant"]).features),
        ),
        ("Model", f"{artifact['onnx']['name']}, SHA-256 {artifact['onnx']['sha256'][:16]}\N{HORIZONTAL ELLIPSIS}"),
    ]


def equality(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What ``verify`` found."""
    forced, free = report["forced"], report["free"]
    rows = [
        ("Layers, each on the reference's own input", f"{forced['layers']}"),
        ("Integer sums that differ", f"{forced['integer_mismatches']:,} of {forced['integers']:,}"),
        ("Codes that differ", f"{forced['mismatches']:,} of {forced['codes']:,}"),
        ("Codes on a threshold within float32 rounding", f"{forced['near_threshold']:,}"),
        (
            "Float values that differ by more than they may",
            f"{forced['float_mismatches']:,} of {forced['floats']:,}",
        ),
        (
            f"Outputs of {counted(free['samples'], 'sample')} that differ from the layers one by one",
            f"{free['output_mismatches']:,} of {free['outputs']:,}",
        ),
        ("Same class as ONNX Runtime", words.percent(free["top1_agreement"])),
    ]
    if "accuracy" in report:
        rows += [
            ("Right answers, ONNX Runtime", words.percent(report["accuracy"]["reference"])),
            ("Right answers, compiled", words.percent(report["accuracy"]["compiled"])),
        ]
    return rows


def peers(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Bars of what ``bench`` timed."""
    times = {"lqcompile": (report["median_ms"], 1.0)}
    times |= {name: (peer["median_ms"], peer["ratio"]) for name, peer in report["against"].items()}
    longest = max(ms for ms, _ in times.values())
    return [
        {
            "name": name,
            "time": words.duration(1e3 * ms),
            "ratio": f"{ratio:.1f}{words.TIMES}",
            "width": 100 * ms / longest,
            "colour": "ours" if name == "lqcompile" else "int8" if "int8" in name else "float",
        }
        for name, (ms, ratio) in times.items()
    ]


def figures(
    profile: Mapping[str, Any], verification: Mapping[str, Any] | None, bench: Mapping[str, Any] | None
) -> list[tuple[str, str, str]]:
    """The figures at the top: value, what it is, detail."""
    whole, totals, held = profile["whole"], profile["totals"], profile["size"]
    found = [
        (
            words.duration(1e3 * whole["median_ms"]),
            "for one sample",
            f"median of {counted(whole['readings'], 'pass')}",
        ),
        (
            words.scaled(totals["bit_operations_per_s"], ""),
            "bit operations a second",
            f"{words.scaled(totals['macs'], 'MAC')} at {words.rate(totals['macs_per_s'], 'MAC')}",
        ),
    ]
    if totals["fraction_of_bound"] is not None:
        bound = f"at best {words.duration(totals['bound_us'])} for these kernels"
        found.append((words.percent(totals["fraction_of_bound"]), "of the bound", bound))
    if held["packed_bytes"]:
        ratio = f"{held['float32_bytes'] / held['packed_bytes']:.1f}{words.TIMES}"
        detail = f"{words.size(held['packed_bytes'])} against {words.size(held['float32_bytes'])} in float32"
        found.append((ratio, "smaller weights", detail))
    if bench is not None and bench["against"]:
        name, peer = max(bench["against"].items(), key=lambda item: float(item[1]["ratio"]))
        found.append((f"{peer['ratio']:.1f}{words.TIMES}", "as fast", f"as {name}"))
    if verification is not None:
        codes, wrong = verification["forced"]["codes"], verification["forced"]["mismatches"]
        word = "Equal" if verification["passed"] else "NOT equal"
        found.append((word, "to its ONNX file", f"{counted(codes, 'code')} compared, {wrong:,} differ"))
        if "accuracy" in verification:
            accuracy = verification["accuracy"]
            detail = f"of {verification['free']['samples']:,}; ONNX Runtime {words.percent(accuracy['reference'])}"
            found.append((words.percent(accuracy["compiled"]), "right answers", detail))
    return found


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
