"""The profile of an artifact: what was measured, beside what its layers compute and what they could take at best."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lqcompile.errors import ArtifactError
from lqcompile.profiling.alternatives import Alternative, Timed, of_layer
from lqcompile.profiling.bounds import Bound, bound
from lqcompile.profiling.caches import level_of
from lqcompile.profiling.measure import Measurement
from lqcompile.profiling.passes import Readings
from lqcompile.target import find
from lqcompile.timing import percentile, spread

FORMAT = 1
"""Of the JSON; raised when a key changes its meaning."""

KEY = "lqcompile_profile"
"""Key of the format, by which a profile is told from other JSON."""


@dataclass(frozen=True, kw_only=True)
class Time:
    """Time of a region over the passes, in microseconds, without that of the call."""

    median_us: float
    p10_us: float
    p90_us: float
    least_us: float


@dataclass(frozen=True, kw_only=True)
class LayerProfile:
    """A region of the network: a layer with all that is fused into it, or a step between layers.

    Args:
        name: of the ONNX node, or of what was made of it.
        op: ONNX operator type; ``Copy`` where only a format changes.
        fused: what runs in the same kernel, in order.
        time: of one sample.
        share: of the time of the network.
        bytes: ``parameters``, ``read``, ``written`` and ``scratch``, as kernels hold them.
        footprint_bytes: all of them, on a GPU those of all samples that run together.
        footprint_level: the closest cache that holds the footprint, or ``memory``; None where caches are unknown.
        work: of a convolution or linear layer, None for other regions.
    """

    name: str
    op: str
    fused: tuple[str, ...]
    time: Time
    share: float
    bytes: Mapping[str, int]
    footprint_bytes: int
    footprint_level: str | None
    work: Work | None


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a convolution or linear layer computes, how, and how close that comes to its bound.

    Args:
        kernel: kernel family.
        loop: inner loop, as the schedule calls it.
        reason: why this family.
        alternatives_from: where `alternatives` are known from; None where there was no choice.
        alternatives: every family that serves, its own among them, from the fastest on.
        weight_bits, act_bits: of the codes; 32 for float32.
        kernel_size: (rows, columns).
        in_shape, out_shape: (C, H, W), before pooling.
        group: of the convolution.
        macs: multiply-accumulates.
        bit_operations: ``weight_bits * act_bits * macs`` where it computes on codes, else 0.
        macs_per_s: by the median time.
        bit_operations_per_s: likewise.
        weights: how many.
        packed_bytes: of the weights, as the model file stores them.
        bound: least time; None where the target tells no peak for the loop.
        fraction_of_bound: least time over the median.
    """

    kernel: str
    loop: str
    reason: str
    alternatives_from: str | None
    alternatives: tuple[Alternative, ...]
    weight_bits: int
    act_bits: int
    kernel_size: tuple[int, int]
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    group: int
    macs: int
    bit_operations: int
    macs_per_s: float | None
    bit_operations_per_s: float | None
    weights: int
    packed_bytes: int
    bound: Bound | None
    fraction_of_bound: float | None


def check_facts(manifest: Mapping[str, Any], file: str) -> None:
    """Check that a manifest tells of the work in its layers (`lqcompile.facts`), before anything is measured.

    Raises:
        ArtifactError: it is that of an older version, which says too little.
    """
    if not all("bytes" in region for variant in manifest["variants"] for region in variant["regions"]):
        raise ArtifactError(
            f"artifact '{file}': found a manifest without bytes of regions, expected those that newer versions write; "
            "build it again with 'lqcompile build'"
        )


def make_profile(
    manifest: Mapping[str, Any],
    variant: Mapping[str, Any],
    measurement: Measurement,
    *,
    file: str,
    artifact_bytes: int,
    timed: Mapping[str, Timed] | None = None,
    samples: int = 1,
) -> dict[str, Any]:
    """The profile as JSON can hold it; docs/profiling.md says what the keys mean.

    Args:
        manifest: of the artifact, see `check_facts`.
        variant: that was measured.
        measurement: of it.
        file: name of the artifact.
        artifact_bytes: its size.
        timed: layer name to candidates that were timed for this profile.
        samples: that ran together, on a GPU; all times are those of one of them.
    """
    layers = _layers(variant, measurement, timed or {}, samples)
    readings = measurement.readings
    whole, call_us = spread(readings.whole), 1e6 * statistics.median(readings.call)
    layers_us = sum(layer.time.median_us for layer in layers)
    interruptions_us = _pass_us(readings) - layers_us
    machine = {key: measurement.info[key] for key in _INFO} | measurement.machine.to_json()
    return {
        KEY: FORMAT,
        "artifact": {
            "file": file,
            "bytes": artifact_bytes,
            "variant": variant["name"],
            **{key: manifest[key] for key in ("target", "lqcompile", "onnx", "tools", "inputs", "outputs")},
        },
        "machine": {"name": measurement.place, **machine},
        "conditions": {"before": dict(measurement.before), "after": dict(measurement.after)},
        "threads": measurement.machine.threads,
        "samples": samples,
        "settled": measurement.settled,
        "whole": whole.to_json(),
        "call_us": call_us,
        "interruptions_us": interruptions_us,
        "unaccounted_us": 1e3 * whole.median_ms - layers_us - call_us - interruptions_us,
        "layers": [asdict(layer) for layer in layers],
        "totals": _totals(layers, layers_us, whole.median_ms),
        "size": _size(layers, variant),
    }


_INFO = ("machine", "system", "cpu", "features", "cores", "emulator", "versions")


def _layers(
    variant: Mapping[str, Any], measurement: Measurement, timed: Mapping[str, Timed], samples: int
) -> list[LayerProfile]:
    entries = {entry["name"]: entry for entry in variant["layers"]}
    readings, machine = measurement.readings, measurement.machine
    parameter_bytes = sum(region["bytes"]["parameters"] for region in variant["regions"])
    network_bytes = samples * variant["arena_bytes"] + parameter_bytes
    peaks = find(variant["name"]).peaks
    whole_us = 1e6 * statistics.median(readings.whole)
    layers = []
    for region in variant["regions"]:
        name, sizes = region["name"], region["bytes"]
        time = _time(readings.regions[name], readings.call)
        entry = entries.get(name)
        work = None
        if entry is not None:
            least = bound(entry, sizes["parameters"] / samples, network_bytes, peaks, machine)
            work = _work(entry, time, least, timed.get(name, ()))
        footprint = sizes["parameters"] + samples * (sum(sizes.values()) - sizes["parameters"])
        layers.append(
            LayerProfile(
                name=name,
                op=region["op"],
                fused=tuple(region["fused"]),
                time=time,
                share=time.median_us / whole_us,
                bytes=sizes,
                footprint_bytes=footprint,
                footprint_level=level_of(footprint, machine.caches) if machine.caches else None,
                work=work,
            )
        )
    return layers


def _time(seconds: Sequence[float], call: Sequence[float]) -> Time:
    """A region took its call less one that runs nothing; less than that is nothing."""
    ordered = sorted(seconds)
    usual, least = statistics.median(call), min(call)
    return Time(
        median_us=1e6 * max(0.0, statistics.median(ordered) - usual),
        p10_us=1e6 * max(0.0, percentile(ordered, 0.1) - usual),
        p90_us=1e6 * max(0.0, percentile(ordered, 0.9) - usual),
        least_us=1e6 * max(0.0, ordered[0] - least),
    )


def _pass_us(readings: Readings) -> float:
    """Microseconds of all regions of one pass, without those of their calls, in the median."""
    calls = len(readings.regions) * statistics.median(readings.call)
    return 1e6 * (statistics.median(map(sum, zip(*readings.regions.values(), strict=True))) - calls)


def _work(entry: Mapping[str, Any], time: Time, least: Bound | None, timed: Timed) -> Work:
    source, alternatives = of_layer(entry, timed)
    on_codes = 32 not in (entry["weight_bits"], entry["act_bits"])
    operations = entry["weight_bits"] * entry["act_bits"] * entry["macs"] if on_codes else 0
    seconds = time.median_us / 1e6
    return Work(
        kernel=entry["kernel"],
        loop=entry["loop"],
        reason=entry["reason"],
        alternatives_from=source,
        alternatives=alternatives,
        weight_bits=entry["weight_bits"],
        act_bits=entry["act_bits"],
        kernel_size=entry["kernel_size"],
        in_shape=entry["in_shape"],
        out_shape=entry["out_shape"],
        group=entry["group"],
        macs=entry["macs"],
        bit_operations=operations,
        macs_per_s=entry["macs"] / seconds if seconds else None,
        bit_operations_per_s=operations / seconds if seconds else None,
        weights=entry["weights"],
        packed_bytes=entry["packed_bytes"],
        bound=least,
        fraction_of_bound=least.us / time.median_us if least and time.median_us else None,
    )


def _totals(layers: Sequence[LayerProfile], layers_us: float, whole_ms: float) -> dict[str, Any]:
    """Sums; the bound is that of the layers which have one, over their time."""
    works = [layer.work for layer in layers if layer.work]
    bounded = [(layer.time.median_us, layer.work.bound.us) for layer in layers if layer.work and layer.work.bound]
    macs, operations = sum(work.macs for work in works), sum(work.bit_operations for work in works)
    measured, least = sum(time for time, _ in bounded), sum(least for _, least in bounded)
    return {
        "layers_us": layers_us,
        "macs": macs,
        "bit_operations": operations,
        "macs_per_s": 1e3 * macs / whole_ms,
        "bit_operations_per_s": 1e3 * operations / whole_ms,
        "bounded_us": measured,
        "bound_us": least,
        "fraction_of_bound": least / measured if measured else None,
    }


def _size(layers: Sequence[LayerProfile], variant: Mapping[str, Any]) -> dict[str, int]:
    """Bytes of all weights in several forms, and of what the network needs at run time."""
    works = [layer.work for layer in layers if layer.work]
    weights = sum(work.weights for work in works)
    return {
        "weights": weights,
        "float32_bytes": 4 * weights,
        "int8_bytes": weights,
        "packed_bytes": sum(work.packed_bytes for work in works),
        "parameter_bytes": sum(layer.bytes["parameters"] for layer in layers),
        "arena_bytes": variant["arena_bytes"],
    }
