"""Whole networks against ONNX Runtime and OpenVINO, all timed interleaved in one run.

    python benchmarks/networks.py --network resnet18 --weight-bits 2 --act-bits 2 --threads 1 [--isa avx2] [--json]
    python benchmarks/networks.py --matrix [--quick] [--isa avx2] [--write docs/performance.md]

Weights are random and calibrated on random images: times do not depend on them. Bases are integers, the first and the
last layer have 8 bits. The peers run the float twin of the same network; both int8 peers run the file that ONNX
Runtime's static quantization makes of it. ``--isa`` holds our code down by its target and OpenVINO by
ONEDNN_MAX_CPU_ISA; ONNX Runtime cannot be held down.

The matrix is networks x bits x threads. Each network is a run of this program, which times all its numbers of bits and
the peers interleaved. What is done is kept in the cache: ``--resume`` goes on behind it. The first run also makes the
models, which takes longer than all the rest; ``--matrix --models`` does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
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
"""How long a network is timed with a number of threads."""

LAYERS_OF = ("resnet18", "alexnet", "vgg_small")
"""Networks whose layers are tabled, at W2A2 and one thread."""


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet18", help="one of lqcompile.models.names()")
    parser.add_argument("--weight-bits", type=int, default=2, help="1 to 4")
    parser.add_argument("--act-bits", type=int, default=2, help="1 to 4, or 32 for float activations")
    parser.add_argument("--bits", nargs="+", help="several in one run, such as 1/2 2/2, in place of the two above")
    parser.add_argument("--threads", type=int, nargs="+", help="default 1; of the matrix 1 and 2")
    parser.add_argument("--isa", choices=HELD, help="hold both sides to an instruction set")
    parser.add_argument("--image-size", type=int, help="rows and columns (default: the paper's)")
    parser.add_argument("--against", default="openvino-int8,onnxruntime-int8,onnxruntime-fp32,openvino-fp32")
    parser.add_argument("--select", choices=("table", "measure"), default="table", help="how kernels are chosen")
    parser.add_argument("--seconds", type=float, help="about as long is timed (default 20, 5 with --quick)")
    parser.add_argument("--quick", action="store_true", help="fewer cells and less time for each")
    parser.add_argument("--memory", action="store_true", help="also measure peak memory")
    parser.add_argument("--matrix", action="store_true", help="all networks and bits, one and two threads")
    parser.add_argument("--networks", nargs="+", help="with --matrix: those to time (default: all)")
    parser.add_argument("--resume", action="store_true", help="with --matrix: keep what an interrupted run measured")
    parser.add_argument("--models", action="store_true", help="only make the models")
    parser.add_argument("--write", type=Path, help="with --matrix: Markdown file to put the tables and plots in")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "benchmarks", help="where models are kept")
    parser.add_argument("--json", action="store_true", help="print the result for programs")
    return parser.parse_args()


def kinds(arguments: argparse.Namespace) -> list[tuple[int, int]]:
    """Bits of weights and activations to time."""
    if not arguments.bits:
        return [(arguments.weight_bits, arguments.act_bits)]
    return [(int(weights), int(acts)) for weights, _, acts in (text.partition("/") for text in arguments.bits)]


def one(arguments: argparse.Namespace) -> None:
    """One network."""
    if arguments.isa:
        os.environ["ONEDNN_MAX_CPU_ISA"] = HELD[arguments.isa]  # OpenVINO reads it when it is imported
    from network_bench.cell import Task, make_models, run_task

    from lqcompile.peers import parse_peers

    task = Task(
        network=arguments.network,
        bits=kinds(arguments),
        threads=arguments.threads or [1],
        isa=arguments.isa,
        image_size=arguments.image_size,
        peers=parse_peers(arguments.against),
        seconds=arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS),
        memory=arguments.memory,
        select=arguments.select,
    )
    errors = Console(stderr=True)

    def tell(text: str) -> None:
        errors.print(text, style="dim", highlight=False)

    if arguments.models:
        make_models(task, arguments.cache, tell)
        return
    results = run_task(task, arguments.cache, tell)
    if arguments.json:
        print(json.dumps(results[0] if len(results) == 1 else results))
    else:
        for result in results:
            show(result, Console(width=150))


def matrix(arguments: argparse.Namespace) -> None:
    """All networks, each in a process of its own; tables and plots at the end."""
    bits = QUICK_BITS if arguments.quick else BITS
    threads = arguments.threads or ([1] if arguments.quick else [1, 2])
    networks = arguments.networks or (QUICK_NETWORKS if arguments.quick else NETWORKS)
    results: list[dict[str, Any]] = []
    for index, network in enumerate(networks):
        options = ["--network", network, "--bits", *(f"{weights}/{acts}" for weights, acts in bits)]
        options += ["--threads", *map(str, threads), "--against", arguments.against, "--cache", str(arguments.cache)]
        options += ["--select", arguments.select]
        options += ["--isa", arguments.isa] if arguments.isa else []
        options += ["--quick"] if arguments.quick else []
        options += ["--models"] if arguments.models else []
        options += ["--memory"] if network == "resnet18" else []
        options += ["--seconds", str(arguments.seconds)] if arguments.seconds else []
        kept = arguments.cache / "results" / f"{network}-{arguments.isa or 'best'}.json"
        print(f"{index + 1} of {len(networks)}: {network}", file=sys.stderr, flush=True)
        if arguments.resume and kept.exists():
            results += json.loads(kept.read_text(encoding="utf-8"))
            continue
        done = subprocess.run(
            [sys.executable, __file__, *options, "--json"], check=True, stdout=subprocess.PIPE, text=True
        )
        if arguments.models:
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(found), encoding="utf-8")
        results += found
    if results:
        report(arguments, results, threads)


def report(arguments: argparse.Namespace, results: list[dict[str, Any]], threads: list[int]) -> None:
    """Tables and plots of the matrix."""
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
    """One network or the matrix."""
    arguments = parse()
    if arguments.matrix:
        matrix(arguments)
    else:
        one(arguments)


if __name__ == "__main__":
    main()
