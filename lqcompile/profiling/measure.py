"""Measuring an artifact: the machine first, then passes until the median is certain or the time is up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lqcompile.profiling.machine import Machine
from lqcompile.profiling.passes import Readings
from lqcompile.timing import spread
from lqcompile.wording import counted

PRECISION = 0.01
"""The 95 % interval of the network's median, as a part of it, at which a measurement ends early."""

FEWEST, MOST = 30, 1000
"""Passes of a measurement, unless the time is up before."""

_SLICE_S, _SLICE_PASSES = 0.5, 100
"""Between slices it is looked whether to go on."""

Progress = Callable[[str, float], None]


class Place(Protocol):
    """Where an artifact is loaded: this machine, or a board."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def info(self) -> Mapping[str, Any]:
        """``machine``, ``system``, ``cpu``, ``features``, ``cores``, ``emulator`` and ``versions``."""

    def machine(self, library: bytes, threads: int) -> Machine:
        """Measure the machine with `lqcompile.profiling.probes.probe_library`."""

    def passes(self, seconds: float, most: int) -> Readings:
        """Time passes for about so long."""

    def conditions(self) -> dict[str, Any]:
        """Clock, governor, temperature and throttling now, as `lqcompile.conditions` gives them."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured.

    Args:
        place: its name.
        info: what it is.
        machine: what it can do.
        readings: of all passes.
        before: conditions at the start.
        after: conditions at the end.
        settled: whether the network's median is as certain as `PRECISION`.
    """

    place: str
    info: Mapping[str, Any]
    machine: Machine
    readings: Readings
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    settled: bool


def measure(place: Place, library: bytes, *, threads: int, limit_s: float, progress: Progress) -> Measurement:
    """Measure the artifact that is loaded in a place.

    Args:
        place: with the artifact loaded for `threads`.
        library: of probes, for the machine there.
        threads: that the artifact runs with.
        limit_s: longest time of passes; one is made whatever it takes.
        progress: called with what is being done and the part of it.

    Raises:
        DeviceError: a board fails.
    """
    progress("measuring the machine", 0.0)
    machine = place.machine(library, threads)
    before = place.conditions()
    readings = Readings()
    start = time.monotonic()
    while True:
        left = limit_s - (time.monotonic() - start)
        readings.extend(place.passes(max(0.0, min(_SLICE_S, left)), _SLICE_PASSES))
        found = spread(readings.whole)
        settled = found.readings >= FEWEST and found.uncertainty <= PRECISION
        done = (time.monotonic() - start) / limit_s if limit_s else 1.0
        progress(
            f"timing, {counted(found.readings, 'pass')}, within {100 * found.uncertainty:.1f} %",
            min(1.0, done),
        )
        if settled or done >= 1.0 or found.readings >= MOST:
            break
    return Measurement(
        place=place.name,
        info=place.info,
        machine=machine,
        readings=readings,
        before=before,
        after=place.conditions(),
        settled=settled,
    )
