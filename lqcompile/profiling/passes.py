"""Timing a network and its regions, pass by pass.

A pass runs the whole network in one call, and then region by region, with the time taken between: each region finds the
caches as it does in the network. A call that runs nothing shows what a call itself takes. TVM's runtime and NumPy are
all this takes, so that boards can do it too.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy.typing as npt

from lqcompile.runtime import CompiledModel

_WARM_UP = 2
"""Passes before anything counts."""


@dataclass(kw_only=True)
class Readings:
    """Seconds, one reading a pass.

    Args:
        whole: of the network in one call.
        regions: name to those of the region, in order; calls of their own.
        call: of a call that runs nothing.
    """

    whole: list[float] = field(default_factory=list)
    regions: dict[str, list[float]] = field(default_factory=dict)
    call: list[float] = field(default_factory=list)

    def extend(self, more: Readings) -> None:
        """Add the readings of more passes."""
        self.whole += more.whole
        self.call += more.call
        for name, seconds in more.regions.items():
            self.regions.setdefault(name, []).extend(seconds)

    def to_json(self) -> dict[str, Any]:
        """Stable keys."""
        return asdict(self)


def time_passes(model: CompiledModel, inputs: Mapping[str, npt.NDArray[Any]], *, seconds: float, most: int) -> Readings:
    """Time passes over the first sample of `inputs`.

    Args:
        model: loaded.
        inputs: name to array[N, ...].
        seconds: about so long, but one pass at least.
        most: passes.
    """
    whole = model.bind_steps(inputs, 0, model.variant["steps"])
    nothing = model.bind_steps(inputs, 0, 0)
    regions = model.layer_runners(inputs)
    readings = Readings(regions={name: [] for name in regions})
    now = time.perf_counter
    end = now() + seconds
    for index in range(_WARM_UP + most):
        stamps = [now()]
        for run in (whole, *regions.values(), nothing):
            run()
            stamps.append(now())
        if index < _WARM_UP:
            continue
        first, *inner, last = [after - before for before, after in pairwise(stamps)]
        readings.whole.append(first)
        readings.call.append(last)
        for values, value in zip(readings.regions.values(), inner, strict=True):
            values.append(value)
        if stamps[-1] >= end:
            break
    return readings
