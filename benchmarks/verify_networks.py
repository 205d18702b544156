"""Every network of the paper at its full size: sizes, build time, and whether the artifact equals its file.

    python benchmarks/verify_networks.py [--network resnet18 ...] [--bits 2/2 ...] [--json] [--write docs/networks.md]

Weights are random and calibrated on random images. GoogLeNet-Variant and DenseNet-121 quantize before they concatenate,
ResNet-50 projects its first shortcut from floats: the forms that are hardest for a compiler. Each network is a process
of its own, which gives its memory back. The page is written after each one, and the exit code is 1 where anything
differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

FORMS: dict[str, dict[str, bool]] = {
    "resnet50": {"float_shortcut": True},
    "googlenet_variant": {"branch_quantizers": True},
    "densenet121": {"branch_quantizers": True},
}

BEGIN, END = "<!-- networks: begin -->", "<!-- networks: end -->"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", help="names of lqcompile.models (default: all)")
    parser.add_argument("--bits", nargs="+", default=["1/2", "2/2", "3/3"], help="weight bits / activation bits")
    parser.add_argument("--image-size", type=int, help="rows and columns (default: the paper's)")
    parser.add_argument("--width", type=float, default=1.0, help="factor on the channels")
    parser.add_argument("--samples", type=int, default=1, help="images to verify with")
    parser.add_argument("--target", default="x86-avx2", help="what to build for; this machine must run it")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--write", type=Path, help="page whose table gets the rows; others stay")
    parser.add_argument("--here", action="store_true", help="one network, in this process, as JSON")
    return parser.parse_args()


def measure(options: argparse.Namespace, name: str, weight_bits: int, act_bits: int) -> dict[str, Any]:
    """Make, build and verify one network."""
    import numpy as np
    import torch

    from lqcompile import models
    from lqcompile.build import build
    from lqcompile.nn import calibrate, export
    from lqcompile.runtime import load
    from lqcompile.verify import verify

    torch.manual_seed(0)
    model = models.create(
        name,
        weight_bits=weight_bits,
        act_bits=act_bits,
        image_size=options.image_size,
        width=options.width,
        **FORMS.get(name, {}),
    )
    size = options.image_size or models.NETWORKS[name].image_size
    images = torch.randn(2, 3, size, size)
    calibrate(model, [images], max_passes=1)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        path, artifact = Path(folder) / "model.onnx", Path(folder) / "model.tar"
        export(model.eval(), images[:1], path)
        del model
        report = build(path, target=options.target, output=artifact)
        compiled = load(artifact)
        samples = np.random.default_rng(0).normal(size=(options.samples, 3, size, size)).astype(np.float32)
        result = verify(path, compiled, {compiled.inputs[0].name: samples}).to_json()
    return {
        "network": name,
        "options": sorted(FORMS.get(name, {})),
        "bits": [weight_bits, act_bits],
        "image_size": size,
        "target": options.target,
        "contractions": len(report.layers),
        "exact_contractions": sum(layer["kernel"] not in ("float", "packed") for layer in report.layers),
        "float32_bytes": 4 * parameters,
        "onnx_bytes": report.onnx_bytes,
        "artifact_bytes": report.artifact_bytes,
        "build_s": report.seconds,
        "samples": options.samples,
        "passed": result["passed"],
        "forced": {key: value for key, value in result["forced"].items() if key != "per_layer"},
        "free": result["free"],
    }


def markdown(results: list[dict[str, Any]]) -> str:
    """One row per network."""
    heads = ["network", "images", "contractions, in floats", "float32, MB", "ONNX file, MB", "artifact, MB", "build, s"]
    heads += ["codes and integers compared", "differ"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in results:
        forced = row["forced"]
        name = " ".join([row["network"], *(f"`{option}`" for option in row["options"])])
        sizes = [f"{row[key] / 1e6:.1f}" for key in ("float32_bytes", "onnx_bytes", "artifact_bytes")]
        floats = row["contractions"] - row["exact_contractions"]
        cells = [
            f"{name} W{row['bits'][0]}A{row['bits'][1]}",
            f"{row['image_size']}",
            f"{row['contractions']}, {floats}",
            *sizes,
            f"{row['build_s']:.0f}",
            f"{forced['codes'] + forced['integers']:,}",
            f"{forced['mismatches'] + forced['integer_mismatches']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_table(page: Path, table: str) -> None:
    """Put rows into the table between the marks of a page; rows of other networks and bits stay.

    Raises:
        ValueError: the page has no marks.
    """
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise ValueError(f"{page}: found no lines {BEGIN!r} and {END!r}; add them where the table belongs")
    head, _, rest = text.partition(BEGIN)
    before, _, tail = rest.partition(END)
    names, rule, *new = table.splitlines()
    old = [line for line in before.strip().splitlines()[2:] if line.startswith("|")]
    rows = {_case(row): row for row in (*old, *new)}
    lines = [names, rule, *(rows[case] for case in sorted(rows))]
    page.write_text(f"{head}{BEGIN}\n\n{chr(10).join(lines)}\n\n{END}{tail}", encoding="utf-8")


def _case(row: str) -> str:
    """Network, options and bits of a row."""
    return row.split("|")[1].strip()


def main() -> None:
    """Run the program."""
    options = parse()
    if options.here:
        weight_bits, act_bits = (int(bits) for bits in options.bits[0].split("/"))
        print(json.dumps(measure(options, options.network[0], weight_bits, act_bits)))
        return
    from lqcompile import models

    results = []
    for name, bits in product(options.network or models.names(), options.bits):
        command = [sys.executable, __file__, "--here", "--network", name, "--bits", bits]
        for option in ("image_size", "width", "samples", "target"):
            value = getattr(options, option)
            command += [] if value is None else [f"--{option.replace('_', '-')}", str(value)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        if options.json:
            print(json.dumps(results[-1]), flush=True)
        if options.write:
            write_table(options.write, markdown(results))
    if not options.json:
        print(markdown(results))
    if not all(result["passed"] for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
