"""Figures of a profile in words: times, rates, sizes, shapes and the reasons for kernels.

Example:
    >>> duration(0.1234), duration(12345.6), rate(2.5e9, "MAC"), size(86400)
    ('0.12 \N{MICRO SIGN}s', '12.35 ms', '2.50 GMAC/s', '86.4 kB')
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lqcompile.target import GPU
from lqcompile.wording import counted

TIMES = "\N{MULTIPLICATION SIGN}"

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))

STAGES = {
    "Affine": "scale and shift",
    "Clamp": "clamp (ReLU)",
    "MaxPool": "max-pooling",
    "AddValue": "residual",
    "MultiplyValue": "product",
    "Leaky": "leaky ReLU",
    "HardSwish": "hard swish",
}
"""Stages behind an operator, as people call them."""


def duration(us: float) -> str:
    """A time: microseconds below 1 ms, milliseconds above, three or four digits."""
    if abs(us) >= 1e3:
        return f"{us / 1e3:.{_digits(us / 1e3)}f} ms"
    return f"{us:.{_digits(us)}f} \N{MICRO SIGN}s"


def rate(per_s: float | None, unit: str) -> str:
    """Such as ``2.50 GMAC/s``; a dash where there is none."""
    return "-" if per_s is None else f"{scaled(per_s, unit)}/s"


def scaled(value: float, unit: str) -> str:
    """Such as ``115.61 MMAC``."""
    factor, prefix = next((item for item in _PREFIXES if abs(value) >= item[0]), (1.0, ""))
    return f"{value / factor:.{_digits(value / factor)}f} {prefix}{unit}"


def macs(count: float) -> str:
    """Multiply-accumulates: ``115.6 MMAC``."""
    return scaled(count, "MAC")


def size(count: float) -> str:
    """Bytes in units of 1000: ``41.5 kB``."""
    if count < 1e3:
        return f"{count:.0f} B"
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def cache_size(count: int) -> str:
    """Bytes in units of 1024, as caches are sold: ``512 KiB``."""
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{count >> 10} KiB"


def percent(part: float | None) -> str:
    """A part of 1: ``91.4 %``; a dash where there is none."""
    return "-" if part is None else f"{100 * part:.1f} %"


def on_gpu(profile: Mapping[str, Any]) -> bool:
    """Whether a profile is that of a GPU, whose figures its driver tells and whose samples run together."""
    return bool(profile["machine"]["machine"] == GPU)


def workers(profile: Mapping[str, Any]) -> str:
    """What worked: ``2 threads``, or ``132 multiprocessors, one of 32 samples at a time``."""
    count = profile["threads"]
    if not on_gpu(profile):
        return counted(count, "thread")
    samples = profile["samples"]
    together = f", one of {samples} samples at a time" if samples > 1 else ""
    return f"{counted(count, 'multiprocessor')}{together}"


def bits(work: Mapping[str, Any]) -> str:
    """Such as W2A2, or W2/32 on float activations."""
    if work["weight_bits"] == work["act_bits"] == 32:
        return "float"
    separator = "/" if work["act_bits"] == 32 else "A"
    return f"W{work['weight_bits']}{separator}{work['act_bits']}"


def shape(work: Mapping[str, Any]) -> str:
    """Such as ``3x3, 64 to 128 channels, 28x28``, or ``512 to 1000`` of a linear layer."""
    inputs, outputs = work["in_shape"], work["out_shape"]
    if inputs[1:] == [1, 1] and work["kernel_size"] == [1, 1]:
        return f"{inputs[0]} to {outputs[0]}"
    kernel, image = TIMES.join(map(str, work["kernel_size"])), TIMES.join(map(str, outputs[1:]))
    groups = f", {work['group']} groups" if work["group"] > 1 else ""
    return f"{kernel}, {inputs[0]} to {outputs[0]} channels{groups}, {image}"


def fused(stages: list[str]) -> str:
    """What runs in the same kernel, in words."""
    return ", ".join(dict.fromkeys(STAGES.get(stage, stage) for stage in stages))


def others(work: Mapping[str, Any]) -> str:
    """The alternatives of a layer and how many times as long they take, or why there are none."""
    found = [entry for entry in work["alternatives"] if entry["kernel"] != work["kernel"]]
    if not found:
        return "no other kernel serves"
    return ", ".join(f"{entry['kernel']} {entry['times']:.2f}{TIMES}" for entry in found)


def _digits(value: float) -> int:
    """Digits behind the point that leave about three."""
    return 0 if abs(value) >= 1e3 else 1 if abs(value) >= 100 else 2
