"""``lqcompile targets``."""

from __future__ import annotations

from lqcompile.cli.console import JsonOption, print_json, print_table

EXAMPLE = "Example: lqcompile targets --json"


def targets(*, json_output: JsonOption = False) -> None:
    """List the machines to compile for, and which of them this one is."""
    from lqcompile import cpu
    from lqcompile import target as known

    entries = []
    for name in known.names():
        target = known.find(name)
        variants = known.expand(target)
        fitting = [
            variant.name
            for variant in variants
            if variant.machine == cpu.machine()
            and cpu.normalise(variant.features, variant.machine) <= cpu.cpu_features()
        ]
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
