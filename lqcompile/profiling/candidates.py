"""Timing every kernel that could serve the layers of an artifact, from its ONNX file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lqcompile.errors import InputError
from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import make_plan
from lqcompile.profiling.alternatives import Timed
from lqcompile.select import Machine, Progress, select_kernels
from lqcompile.target import Target


def time_alternatives(
    model: Path, manifest: Mapping[str, Any], target: Target, machine: Machine, progress: Progress
) -> dict[str, Timed]:
    """Time every candidate kernel of every layer, as ``build --select measure`` does: for one sample.

    Args:
        model: the ONNX file that the artifact was built from.
        manifest: of the artifact.
        target: that the machine runs, with as many samples at a time as are to be timed.
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
    choices = select_kernels(plan, target, progress, machine)
    return {
        name: [(candidate.family, us / target.samples) for candidate, us in choice.measured]
        for name, choice in choices.items()
    }
