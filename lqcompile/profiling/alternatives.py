"""What else a layer could have run as, and how long that takes: as the manifest tells, or as it was timed anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TABLE, MEASURED = "cost table", "measured"
"""Where times of alternatives come from."""


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A kernel family for a layer.

    Args:
        kernel: the family.
        times: its time, as a multiple of that of the family that the artifact has.
        us: its time in microseconds, with its best register tile; None where only the cost table is known.
    """

    kernel: str
    times: float
    us: float | None


Timed = Sequence[tuple[str, float]]
"""Candidates of a layer: kernel family and microseconds."""


def of_layer(layer: Mapping[str, Any], timed: Timed = ()) -> tuple[str | None, tuple[Alternative, ...]]:
    """Where the alternatives of a layer are known from, and what they are, from the fastest on.

    Args:
        layer: its entry in the manifest.
        timed: candidates that were timed for this profile; those of the build are taken where there are none.

    Returns:
        `TABLE`, `MEASURED` or None (there was no choice), and every family that serves, the layer's own among them.
    """
    times = timed or [(entry["kernel"], entry["us"]) for entry in layer["measured"]]
    best: dict[str, float] = {}
    for kernel, us in times:
        best[kernel] = min(us, best.get(kernel, us))
    if layer["kernel"] in best and len(best) > 1:
        own = best[layer["kernel"]]
        found = [Alternative(kernel=kernel, times=us / own, us=us) for kernel, us in best.items()]
        return MEASURED, tuple(sorted(found, key=lambda item: item.times))
    entries = {entry["kernel"]: entry["times"] for entry in layer["estimates"]}
    if layer["kernel"] not in entries:
        return None, ()
    own = entries[layer["kernel"]]
    found = [Alternative(kernel=kernel, times=times / own, us=None) for kernel, times in entries.items()]
    return TABLE, tuple(sorted(found, key=lambda item: item.times))
