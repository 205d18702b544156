"""What else a layer could have run as, and how long that takes: from the manifest, or timed anew."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lqcompile.errors import InputError
from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import make_plan
from lqcompile.select import Machine, Progress, select_kernels
from lqcompile.target import find

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


def time_alternatives(
    model: Path, manifest: Mapping[str, Any], variant: str, machine: Machine, progress: Progress
) -> dict[str, Timed]:
    """Time every candidate kernel of every layer, as ``build --select measure`` does.

    Args:
        model: the ONNX file that the artifact was built from.
        manifest: of the artifact.
        variant: that the machine runs.
        machine: to time on.
        progress: called with what is being done and the part of it.

    Returns:
        layer name to its candidates; layers without a choice are left out.

    Raises:
        InputError: the artifact was built from another file.
        LQCompileError: the file is no model, or a board fails.
    """
    plan = make_plan(load_checked(model))
    found = hashlib.sha256(model.read_bytes()).hexdigest()
    if found != manifest["onnx"]["sha256"]:
        raise InputError(
            f"model '{model}': found SHA-256 {found[:12]}..., expected {manifest['onnx']['sha256'][:12]}... of "
            f"'{manifest['onnx']['name']}', which the artifact was built from; give that file, or build it again"
        )
    choices = select_kernels(plan, find(variant), progress, machine)
    return {name: [(candidate.family, us) for candidate, us in choice.measured] for name, choice in choices.items()}
