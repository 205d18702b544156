"""Speed of the kernels on ARM cores as llvm-mca sees them: a model, not a measurement.

    python benchmarks/arm_model.py [--core cortex-a72] [--network ResNet-18] [--bits 2,2] [--json | --markdown]

For every layer of a network the kernel is compiled for the core and the loops of its assembly are timed by llvm-mca,
LLVM's model of the core's pipeline, with all data in the first-level cache. Weights are random, bases are integers. Of
each network it shows: multiply-accumulates (MACs) per cycle of the innermost loop and of the whole kernel with its
epilogue, the former beside the best loop written by hand for the same instructions; and the time that all layers take
together, beside fp32 and int8 at *their* hand-written loops, without any epilogue.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from port_model.bounds import hand_written
from port_model.kernels import NETWORKS, Kernel, Shape, compile_layer
from port_model.llvm_mca import Cycles, ModelError, analyse, find, version
from port_model.tables import markdown
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Core:
    """A core, the target whose code it runs, and its clock in a product.

    Args:
        name: for llvm-mca.
        target: of lqcompile.
        ghz: clock.
        features: what it has beyond NEON.
        in_order: it issues in program order. llvm-mca's pipeline then stalls hand-written loops, too, for most of the
            time, so both sides count the busiest execution unit instead.
        board: where it is found.
    """

    name: str
    target: str
    ghz: float
    board: str
    features: tuple[str, ...] = ()
    in_order: bool = False

    def cycles(self, cycles: Cycles) -> float:
        """Cycles that count on this core."""
        return cycles.bound if self.in_order else cycles.simulated


CORES = (
    Core(name="cortex-a53", target="raspberry-pi-3", ghz=1.4, board="Raspberry Pi 3", in_order=True),
    Core(name="cortex-a72", target="raspberry-pi-4", ghz=1.5, board="Raspberry Pi 4"),
    Core(
        name="neoverse-n1",
        target="neoverse-n1",
        ghz=2.4,
        board="Raspberry Pi 5: LLVM has no model of Cortex-A76, its server sibling stands for it",
        features=("dotprod",),
    ),
    Core(
        name="neoverse-v1", target="neoverse-v1", ghz=2.6, board="AWS Graviton3", features=("dotprod", "i8mm")
    ),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One layer on one core.

    Args:
        layer: shape in words.
        bits: such as ``W2A2``, or ``8-bit`` for first and last layers.
        family: kernel family that the cost table chose.
        count: how often the network has it.
        macs: multiply-accumulates of one sample.
        inner: MACs per cycle of the innermost loop.
        fraction: of the hand-written loop with the same instructions.
        whole: MACs per cycle of the whole kernel.
    """

    layer: str
    bits: str
    family: str
    count: int
    macs: int
    inner: float
    fraction: float
    whole: float


def bounds(tool: str, core: Core) -> dict[str, dict[str, float]]:
    """MACs per cycle of the hand-written loops that `core` can run, by kind and name."""
    loops = [loop for loop in hand_written() if not loop.feature or loop.feature in core.features]
    found = analyse(tool, core.name, {loop.name: loop.lines for loop in loops})
    rates: dict[str, dict[str, float]] = {}
    for loop in loops:
        rates.setdefault(loop.kind, {})[loop.name] = loop.macs / core.cycles(found[loop.name])
    return rates


def kernel_rates(tool: str, core: Core, kernel: Kernel, macs: int) -> tuple[float, float]:
    """MACs per cycle of a kernel: innermost loop (of what it computes, padding included), and whole (useful ones)."""
    found = analyse(tool, core.name, {str(index): part.lines for index, part in enumerate(kernel.parts)})
    cycles = {part: part.passes * core.cycles(found[str(index)]) for index, part in enumerate(kernel.parts)}
    inner = kernel.inner()
    products = sum(part.macs * part.passes for part in inner) / kernel.pairs
    return products / sum(cycles[part] for part in inner), macs / sum(cycles.values())


def layer_row(
    tool: str, core: Core, shape: Shape, bits: tuple[int, int], best: dict[str, float], family: str | None
) -> Row:
    """Compiles a layer and models it."""
    kernel = compile_layer(shape, bits, core.target, family)
    inner, whole = kernel_rates(tool, core, kernel, shape.macs)
    bound = best["popcount"] / kernel.pairs if kernel.family == "popcount" else best["int8"]
    label = "8-bit" if shape.edge else f"W{bits[0]}A{bits[1]}"
    return Row(
        layer=shape.name,
        bits=label,
        family=kernel.family,
        count=shape.count,
        macs=shape.macs,
        inner=inner,
        fraction=inner / bound,
        whole=whole,
    )


def project(core: Core, rows: list[Row], best: dict[str, float]) -> dict[str, float]:
    """Milliseconds of one sample on one core: all layers, ours and the peers at their hand-written loops."""
    clock = core.ghz * 1e6
    macs = sum(row.macs * row.count for row in rows)
    return {
        "lqcompile": sum(row.macs * row.count / row.whole for row in rows) / clock,
        "lqcompile, innermost loops alone": sum(row.macs * row.count / row.inner for row in rows) / clock,
        "int8 bound": macs / best["int8"] / clock,
        "fp32 bound": macs / best["fp32"] / clock,
    }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--core", action="append", choices=[core.name for core in CORES], help="repeatable; default all"
    )
    parser.add_argument("--network", action="append", choices=sorted(NETWORKS), help="repeatable; default all")
    parser.add_argument("--bits", action="append", metavar="W,A", help="such as 2,2; repeatable; default 1,1 1,2 2,2")
    parser.add_argument("--family", help="kernel family of low-bit layers, in place of the cost table's choice")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true")
    form.add_argument("--markdown", action="store_true", help="tables as in docs/performance.md")
    arguments = parser.parse_args()
    every_bits = [parse_bits(text) for text in arguments.bits or ("1,1", "1,2", "2,2")]
    try:
        tool = find()
        report = [
            core_report(tool, core, arguments.network or list(NETWORKS), every_bits, arguments.family)
            for core in CORES
            if not arguments.core or core.name in arguments.core
        ]
    except ModelError as error:
        sys.exit(str(error))
    if arguments.json:
        print(json.dumps({"model": f"llvm-mca {version(tool)}, not a measurement", "cores": report}, indent=1))
    elif arguments.markdown:
        print(markdown(report))
    else:
        show(report, version(tool))


def parse_bits(text: str) -> tuple[int, int]:
    """``2,1`` as bits of weights and activations."""
    weight_bits, act_bits = (int(part) for part in text.split(","))
    return weight_bits, act_bits


def core_report(
    tool: str, core: Core, networks: list[str], every_bits: list[tuple[int, int]], family: str | None
) -> dict[str, Any]:
    """Bounds, layers and projections of one core."""
    rates = bounds(tool, core)
    best = {kind: max(loops.values()) for kind, loops in rates.items()}
    rows: dict[tuple[Shape, tuple[int, int]], Row] = {}
    found = []
    for network in networks:
        for bits in every_bits:
            for shape in NETWORKS[network]:
                key = (shape, bits)
                if key not in rows:
                    print(f"{core.name}: {network} W{bits[0]}A{bits[1]} {shape.name}", file=sys.stderr)
                    rows[key] = layer_row(tool, core, shape, bits, best, family)
            layers = [rows[shape, bits] for shape in NETWORKS[network]]
            found.append(
                {
                    "network": network,
                    "bits": f"W{bits[0]}A{bits[1]}",
                    "layers": [asdict(row) for row in layers],
                    "ms": project(core, layers, best),
                }
            )
    return {"core": core.name, "ghz": core.ghz, "board": core.board, "bounds": rates, "networks": found}


def show(report: list[dict[str, Any]], tool_version: str) -> None:
    """Print tables for people."""
    console = Console(width=160)
    console.print(
        f"[bold]A model (llvm-mca {tool_version}), not a measurement; all data in the first-level cache.[/bold]"
    )
    table = Table("core", "GHz", "stands for", "kind", "loop", "MACs/cycle", title="Loops written by hand")
    for core in report:
        for kind, loops in core["bounds"].items():
            for name, rate in loops.items():
                table.add_row(core["core"], f"{core['ghz']}", core["board"], kind, name, f"{rate:.1f}")
        table.add_section()
    console.print(table)
    for core in report:
        for network in core["networks"]:
            title = f"{network['network']} {network['bits']} on {core['core']}: MACs per cycle"
            table = Table("layer", "times", "kernel", "innermost loop", "of hand-written", "whole kernel", title=title)
            for row in network["layers"]:
                cells = (f"{row['inner']:.1f}", f"{row['fraction']:.0%}", f"{row['whole']:.1f}")
                table.add_row(row["layer"], str(row["count"]), f"{row['family']}, {row['bits']}", *cells)
            console.print(table)
    columns = ("core", "network", "bits", "lqcompile", "innermost loops alone", "int8 bound", "fp32 bound")
    table = Table(*columns, "int8 / ours", "fp32 / ours", title="Projected time of all layers, one core, ms")
    for core in report:
        for network in core["networks"]:
            ms = network["ms"]
            ratios = [f"{ms[peer] / ms['lqcompile']:.1f}" for peer in ("int8 bound", "fp32 bound")]
            times = [f"{value:.1f}" for value in ms.values()]
            table.add_row(core["core"], network["network"], network["bits"], *times, *ratios)
        table.add_section()
    console.print(table)


if __name__ == "__main__":
    main()
