"""Whole networks against ONNX Runtime and OpenVINO, all timed interleaved in one run.

    python benchmarks/networks.py --network resnet18 --weight-bits 2 --act-bits 2 --threads 1 [--isa avx2] [--json]
    python benchmarks/networks.py --matrix [--quick] [--isa avx2] [--write docs/performance.md]

Weights are random and calibrated on random images: times do not depend on them. Bases are integers, the first and the
last layer have 8 bits. The peers run the float twin of the same network; both int8 peers run the file that ONNX
Runtime's static quantization makes of it. ``--isa`` holds our code down by its target and OpenVINO by
ONEDNN_MAX_CPU_ISA; ONNX Runtime cannot be held down.

The matrix is networks x bits x threads, each cell a run of this program: about 40 minutes, 10 with ``--quick``; the
first run also makes the models (kept in build/benchmarks).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

from network_bench.tables import layer_markdown, markdown, plot, show, write_section
from rich.console import Console

ROOT = Path(__file__).parents[1]

HELD = {"avx2": "AVX2", "avx512": "AVX512_CORE", "vnni": "AVX512_CORE_VNNI", "amx": "AVX512_CORE_AMX"}
"""What ONEDNN_MAX_CPU_ISA takes."""

NETWORKS = ("resnet18", "resnet50", "alexnet", "vgg_small", "resnet20")
BITS = ((1, 1), (1, 2), (2, 2), (3, 3), (2, 32))
QUICK_NETWORKS, QUICK_BITS = ("resnet18", "alexnet", "vgg_small"), ((1, 1), (1, 2), (2, 2))

SECONDS, QUICK_SECONDS = 20.0, 5.0
"""How long a cell is timed."""

LAYERS_OF = ("resnet18", "alexnet", "vgg_small")
"""Networks whose layers are tabled, at W2A2 and one thread."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18", help="one of lqcompile.models.names()")
    parser.add_argument("--weight-bits", type=int, default=2, help="1 to 4")
    parser.add_argument("--act-bits", type=int, default=2, help="1 to 4, or 32 for float activations")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", choices=HELD, help="hold both sides to an instruction set")
    parser.add_argument("--image-size", type=int, help="rows and columns (default: the paper's)")
    parser.add_argument("--against", default="openvino-int8,onnxruntime-int8,onnxruntime-fp32,openvino-fp32")
    parser.add_argument("--select", choices=("table", "measure"), default="table", help="how kernels are chosen")
    parser.add_argument("--seconds", type=float, help="about as long is timed (default 20, 5 with --quick)")
    parser.add_argument("--quick", action="store_true", help="fewer cells and less time for each")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory")
    parser.add_argument("--matrix", action="store_true", help="all networks and bits, one and two threads")
    parser.add_argument("--write", type=Path, help="with --matrix: Markdown file to put the tables and plots in")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where models are kept")
    parser.add_argument("--json", action="store_true", help="print the result for programs")
    return parser.parse_args()


def one(arguments: argparse.Namespace) -> None:
    """One cell."""
    if arguments.isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = HELD[arguments.isa]  # OpenVINO reads it when it is imported
    from network_bench.cell import Cell, run_cell

    from lqcompile.peers import parse_peers

    cell = Cell(
        network=arguments.network,
        weight_bits=arguments.weight_bits,
        act_bits=arguments.act_bits,
        threads=arguments.threads,
        isa=arguments.isa,
        image_size=arguments.image_size,
        peers=parse_peers(arguments.against),
        seconds=arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS),
        memory=arguments.memory,
        select=arguments.select,
    )
    errors = Console(stderr=True)
    result = run_cell(cell, arguments.cache, lambda text: errors.print(text, style="dim"))
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result, Console(width=150))


def matrix(arguments: argparse.Namespace) -> None:
    """All cells, each in a process of its own; tables and plots at the end."""
    networks, bits = (QUICK_NETWORKS, QUICK_BITS) if arguments.quick else (NETWORKS, BITS)
    threads = (1,) if arguments.quick else (1, 2)
    results: list[dict[str, Any]] = []
    for count, network, (weight_bits, act_bits) in product(threads, networks, bits):
        options = ["--network", network, "--weight-bits", str(weight_bits), "--act-bits", str(act_bits)]
        options += ["--threads", str(count), "--against", arguments.against, "--cache", str(arguments.cache)]
        options += ["--select", arguments.select]
        options += ["--isa", arguments.isa] if arguments.isa else []
        options += ["--quick"] if arguments.quick else []
        options += ["--memory"] if (network, weight_bits, act_bits, count) == ("resnet18", 2, 2, 1) else []
        options += ["--seconds", str(arguments.seconds)] if arguments.seconds else []
        done = subprocess.run(
            [sys.executable, __file__, *options, "--json"], check=True, stdout=subprocess.PIPE, text=True
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
    layers = [result for result in results if result["network"] in LAYERS_OF and result["threads"] == 1]
    text = markdown(results) + "\n" + "\n".join(layer_markdown(result) for result in layers if _is_w2a2(result))
    for count in threads:
        name = f"networks-{arguments.isa or 'best'}-{count}.svg"
        folder = arguments.write.parent if arguments.write else arguments.cache
        path = folder / "figures" / name
        peer = arguments.against.split(",")[0]
        plot([result for result in results if result["threads"] == count], peer, path)
        text += f"\n![Times as fast as {peer}, threads: {count}](figures/{name})\n"
    if arguments.json:
        print(json.dumps(results))
    else:
        print(text)
    if arguments.write:
        write_section(arguments.write, text)


def _is_w2a2(result: dict[str, Any]) -> bool:
    return (result["weight_bits"], result["act_bits"]) == (2, 2)


def main() -> None:
    """One cell or the matrix."""
    arguments = parse()
    if arguments.matrix:
        matrix(arguments)
    else:
        one(arguments)


if __name__ == "__main__":
    main()
