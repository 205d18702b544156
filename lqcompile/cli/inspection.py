"""``lqcompile inspect``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from lqcompile.cli.building import bits, print_layers
from lqcompile.cli.console import JsonOption, in_kilobytes, print_json, print_table, print_text

EXAMPLE = "Example: lqcompile inspect model.onnx"


def inspect(
    file: Annotated[Path, typer.Argument(help="ONNX file or artifact.", show_default=False)],
    *,
    json_output: JsonOption = False,
) -> None:
    """Show what a model computes per layer, or what an artifact holds."""
    from lqcompile.artifact import is_artifact, read_artifact

    if is_artifact(file):
        manifest = read_artifact(file).manifest
        if json_output:
            print_json({"artifact": str(file), **manifest})
        else:
            _show_artifact(file, manifest)
        return
    from lqcompile.graph.check import load_checked
    from lqcompile.graph.fuse import make_plan
    from lqcompile.graph.statistics import layer_statistics, totals

    plan = make_plan(load_checked(file))
    layers = layer_statistics(plan)
    report = {
        "model": str(file),
        "layers": [dataclasses.asdict(layer) for layer in layers],
        "totals": dataclasses.asdict(totals(plan)),
    }
    if json_output:
        print_json(report)
    else:
        _show_model(report)


def _show_model(report: dict[str, Any]) -> None:
    rows = [
        (
            layer["name"],
            layer["op"],
            bits(layer["weight_bits"]),
            bits(layer["act_bits"]),
            f"{layer['macs']:,}",
            f"{layer['bit_operations']:,}",
            f"{layer['packed_parameter_bytes']:,}",
            f"{layer['float_parameter_bytes']:,}",
            f"{layer['activation_bytes']:,}",
            f"{layer['activation_to_parameter_ratio']:.2f}",
            f"{layer['arithmetic_intensity']:.1f}",
        )
        for layer in report["layers"]
    ]
    columns = (
        "layer",
        "operator",
        "weight bits",
        "activation bits",
        "MACs",
        "bit operations",
        "parameter bytes, packed",
        "in float",
        "activation bytes",
        "per parameter byte",
        "operations per byte",
    )
    print_table(report["model"], columns, rows)
    total = report["totals"]
    print_text(
        f"Total: {total['macs']:,} MACs, {total['bit_operations']:,} bit operations, parameters "
        f"{in_kilobytes(total['packed_parameter_bytes'])} packed "
        f"({in_kilobytes(total['float_parameter_bytes'])} in float), "
        f"at most {in_kilobytes(total['peak_activation_bytes'])} of activations at a time"
    )


def _show_artifact(path: Path, manifest: dict[str, Any]) -> None:
    for variant in manifest["variants"]:
        needs = ", ".join(variant["requires"]) or "nothing special"
        print_layers(f"{path}, code for {variant['name']} (needs {needs})", variant["layers"])
    members = manifest["members"].values()
    tools = ", ".join(f"{name} {version}" for name, version in manifest["tools"].items())
    print_text(
        f"Target {manifest['target']} ({manifest['machine']}, {manifest['system']}), from {manifest['onnx']['name']} "
        f"(SHA-256 {manifest['onnx']['sha256'][:12]}...), {in_kilobytes(sum(entry['bytes'] for entry in members))} in "
        f"{len(members)} members, built by lqcompile {manifest['lqcompile']} with {tools}"
    )
