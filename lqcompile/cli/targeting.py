"""``lqcompile targets``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lqcompile.cli.console import JsonOption, print_json, print_table

if TYPE_CHECKING:
    from lqcompile.target import Target

EXAMPLE = "Example: lqcompile targets --json"


CHECKS = {"cuda": "lqcompile.cuda.capability"}
"""Modules with a function `runs_here`, for machines that are no CPUs."""


def targets(*, json_output: JsonOption = False) -> None:
    """List the machines to compile for, and which of them this one is."""
    from lqcompile import cpu
    from lqcompile import target as known

    entries = []
    for name in known.names():
        target = known.find(name)
        variants = known.expand(target)
        fitting = [variant.name for variant in variants if _runs_here(variant)]
        entries.append(
            {
                "name": name,
                "description": target.description,
                "machine": target.machine,
                "features": list(target.features),
                "variants": list(target.variants),
                "runs_here": bool(fitting),
            }
        )
    if json_output:
        print_json({"cpu": cpu.cpu_name(), "machine": cpu.machine(), "targets": entries})
        return
    print_table(
        f"Targets (this machine: {cpu.cpu_name()}, {cpu.machine()})",
        ("target", "for", "machine", "runs here"),
        [
            (entry["name"], entry["description"], entry["machine"], "yes" if entry["runs_here"] else "no")
            for entry in entries
        ],
    )


def _runs_here(target: Target) -> bool:
    """Whether this machine runs the code of a target without variants."""
    from lqcompile import cpu

    if target.machine in CHECKS:
        return bool(importlib.import_module(CHECKS[target.machine]).runs_here(target.features))
    here = target.machine == cpu.machine()
    return here and cpu.normalise(target.features, target.machine) <= cpu.cpu_features()
