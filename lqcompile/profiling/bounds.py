"""What a layer could take at best: its work at the arithmetic ports, its parameters out of cache or memory.

The peaks of inner loops are those of the target (`lqcompile.target.Target.peaks`), clock and bandwidths are measured
(`lqcompile.profiling.machine`) or told by the driver (`lqcompile.profiling.gpu`). Activations are not counted: the
layer before has just written them. Nor are parameters out of a cache whose bandwidth is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lqcompile.profiling.caches import level_of
from lqcompile.profiling.machine import Machine

PLANE_PAIRS = ("popcount", "lut", "planes", "b1mma", "b1wgmma")
"""Kernel families that multiply each plane of the weights by each of the activations."""


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The least time of a layer.

    Args:
        us: microseconds.
        by: ``arithmetic``, or the level that parameters come from, such as ``L2``.
    """

    us: float
    by: str


def passes_of(layer: Mapping[str, Any]) -> int:
    """How often a layer's kernel multiplies: by plane pairs, or once."""
    return int(layer["weight_bits"] * layer["act_bits"]) if layer["kernel"] in PLANE_PAIRS else 1


def bound(
    layer: Mapping[str, Any], parameter_bytes: float, network_bytes: int, peaks: Mapping[str, float], machine: Machine
) -> Bound | None:
    """The least time of a convolution or linear layer; None where the target has no peak for its inner loop.

    Args:
        layer: its entry in the manifest.
        parameter_bytes: that it reads for one sample: on a GPU its part, for a batch shares them.
        network_bytes: parameters and activations of the whole network, which pass through the caches in each run.
        peaks: of the target.
        machine: with the threads, or multiprocessors, that share the work.
    """
    peak = peaks.get(layer["loop"])
    if peak is None:
        return None
    arithmetic = layer["macs"] * passes_of(layer) / (peak * machine.clock_hz * machine.threads)
    level = level_of(network_bytes, machine.caches)
    reading = parameter_bytes / machine.bytes_per_s.get(level, math.inf)
    return Bound(us=1e6 * max(arithmetic, reading), by="arithmetic" if arithmetic >= reading else level)
