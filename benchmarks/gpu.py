"""What an NVIDIA GPU does with low-bit codes: its peaks, square products, and whole networks against torch.

    python benchmarks/gpu.py --part prepare                      # on any machine: models and artifacts
    python benchmarks/gpu.py [--part peaks|gemm|networks]        # on the GPU, about 9 minutes a call
    python benchmarks/gpu.py --part tables [--write docs/performance.md]

A call that ran out of time ends with code 3; the next one goes on where it stopped. All results are in one JSON file.
`benchmarks/gpu_session.sh` calls everything in order. Peers that are not there are listed with the reason.

No GPU has run this yet.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from gpu_series import gemm, whole
from gpu_series.peaks import measure_peaks
from gpu_series.results import Deadline, Results, read_results
from gpu_series.tables import markdown
from network_bench.tables import write_section

from lqcompile.cuda.capability import runs_here
from lqcompile.cuda.driver import Gpu
from lqcompile.errors import InputError, LQCompileError
from lqcompile.gpu_bench.opening import PEERS
from lqcompile.gpu_bench.peer import Absent
from lqcompile.gpu_bench.torch_peers import cuda_torch
from lqcompile.peers import parse_peers
from lqcompile.target import find

ROOT = Path(__file__).parents[1]

UNFINISHED = 3
"""Exit code of a call whose time was up."""

PARTS = ("target", "prepare", "peaks", "gemm", "networks", "measure", "tables")

TARGETS = ("cuda-h200", "jetson-orin", "cuda-a100", "cuda")
"""Of those that the GPU runs, the first is built for; without a GPU the first of all."""

PEAK_ROUNDS, GEMM_ROUNDS = 15, 21


MARKS = ("<!-- gpu: begin -->", "<!-- gpu: end -->")
"""Lines of docs/performance.md between which the tables go."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one part; 0 when it is done, 1 for an error, 3 when the time was up before."""
    options = parse(arguments)
    options.target = options.target or next((name for name in TARGETS if runs_here(find(name).features)), TARGETS[0])
    try:
        if options.part == "target":
            print(options.target)
        elif options.part == "prepare":
            prepare(options)
        elif options.part == "tables":
            tables(options)
        elif not measure(options):
            return UNFINISHED
    except LQCompileError as error:
        print(f"benchmarks/gpu.py: {error}", file=sys.stderr)
        return 1
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--part",
        choices=PARTS,
        default="measure",
        help="measure is peaks, gemm and networks; target names what is built for",
    )
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "gpu" / "results.json", help="JSON file")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "gpu" / "models", help="models and artifacts")
    parser.add_argument("--target", choices=TARGETS, help="what to build for (default: the first that the GPU runs)")
    parser.add_argument(
        "--select",
        choices=["table", "measure"],
        default="table",
        help="how kernels are chosen; 'measure' tries warpgroups too (take another --results file for it)",
    )
    parser.add_argument("--limit", type=float, default=480.0, metavar="SECONDS", help="nothing begins that ends later")
    parser.add_argument("--networks", nargs="*", default=list(whole.NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=list(whole.BATCHES))
    parser.add_argument("--bits", nargs="+", default=["1/1", "1/2", "2/2", "3/3"], help="of weights / activations")
    parser.add_argument("--image-size", type=int, help="rows and columns (default: the paper's)")
    parser.add_argument("--sizes", nargs="*", type=int, default=list(gemm.SIZES), help="of square products")
    parser.add_argument("--against", default=",".join(PEERS), help="peers of networks")
    parser.add_argument("--rounds", type=int, default=51, help="readings of each network, interleaved")
    parser.add_argument("--write", type=Path, help="with --part tables: Markdown file to put them in")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> None:
    """Everything that needs no GPU."""
    for size in options.sizes:
        for bits in gemm.BITS:
            tell(f"preparing: product of {size}, W{bits[0]}A{bits[1]}")
            gemm.gemm_artifact(size, bits, options.target, options.cache, options.select)
    for network in options.networks:
        for bits in widths(options):
            tell(f"preparing: {network} W{bits[0]}A{bits[1]}")
            whole.artifact(network, bits, options.target, options.image_size, options.cache, options.select)


def measure(options: argparse.Namespace) -> bool:
    """One part on the GPU, or all of them; whether everything of it is measured now.

    Raises:
        LQCompileError: there is no GPU, or it fails; what was measured before is kept.
    """
    gpu = Gpu()
    peers = parse_peers(options.against, tuple(PEERS))
    torch = usable_torch()
    machine = {
        "gpu": gpu.name,
        "driver": gpu.driver,
        "target": options.target,
        "select": options.select,
        "lqcompile": importlib.metadata.version("lqcompile"),
        "torch": "none that can use the GPU" if torch is None else torch.__version__,
    }
    results = Results(options.results, machine)
    deadline = Deadline(options.limit, results)
    if not results.data["peaks"]:
        start = time.monotonic()
        for name, peak in measure_peaks(gpu, PEAK_ROUNDS, tell).items():
            results.add("peaks", name, peak, time.monotonic() - start)
    peaks = results.data["peaks"]
    products = {
        str(size): functools.partial(
            gemm.measure_gemm, torch, size, options.target, options.cache, GEMM_ROUNDS, peaks, options.select
        )
        for size in options.sizes
    }
    networks = {
        f"{network} {batch}": functools.partial(measure_network, options, network, peers, batch, peaks)
        for network in options.networks
        for batch in options.batches
    }
    done = True
    if options.part in ("gemm", "measure"):
        done = cells(results, deadline, "gemm", products)
    if options.part in ("networks", "measure"):
        done = cells(results, deadline, "networks", networks) and done
    return done


def measure_network(
    options: argparse.Namespace, network: str, peers: Sequence[str], batch: int, peaks: dict[str, Any]
) -> dict[str, Any]:
    """One network with one number of samples."""
    return whole.measure_network(artifacts(options, network), peers, batch, options.rounds, peaks, tell)


def tables(options: argparse.Namespace) -> None:
    """The results as Markdown: printed, beside the JSON file, and in a section of a file.

    Raises:
        InputError: there are no results, or the file to write to has no place for them.
    """
    text = markdown(read_results(options.results))
    options.results.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    if options.write:
        try:
            write_section(options.write, text, MARKS)
        except (OSError, ValueError) as error:
            raise InputError(f"--write: {error}") from error
    print(text)


def cells(results: Results, deadline: Deadline, part: str, measures: dict[str, Callable[[], object]]) -> bool:
    """Measure what was not measured yet, as long as there is time; whether nothing is left."""
    for key, run in measures.items():
        if results.has(part, key):
            continue
        if not deadline.allows(part):
            tell(f"{part}: the time is up before {key}; call again to go on")
            return False
        start = time.monotonic()
        tell(f"{part}: {key}")
        cell = run()
        results.add(part, key, cell, time.monotonic() - start)
    return True


def artifacts(options: argparse.Namespace, network: str) -> dict[str, Path]:
    """Name of each width to its artifact, built where it is not there."""
    return {
        f"W{bits[0]}A{bits[1]}": whole.artifact(
            network, bits, options.target, options.image_size, options.cache, options.select
        )
        for bits in widths(options)
    }


def widths(options: argparse.Namespace) -> list[tuple[int, int]]:
    """Bits of weights and activations."""
    return [(int(weights), int(acts)) for weights, _, acts in (text.partition("/") for text in options.bits)]


def usable_torch() -> ModuleType | None:
    """Torch, or None with a word about it where it cannot use the GPU."""
    try:
        return cuda_torch()
    except Absent as reason:
        tell(f"torch: {reason}")
        return None


def tell(text: str) -> None:
    """Say what is done, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
