"""Inner loops of x86 kernels for processors that are not here, as llvm-mca sees them: estimates, not measurements.

    python benchmarks/x86_model.py

Four tables, with all data in the first-level cache. How far llvm-mca is off where this can be told: loops of
benchmarks/ports.py on Zen 3, to hold against what that measures. Innermost loops of compiled layers on the processor of
their target, in multiply-accumulates per cycle (of plane pairs, for popcount and lut). 3x3 layers on transformed tiles,
all their loops together. For AMX, of which LLVM has no model, the groups of tiles of each layer of ResNet-18 and what
the compiler's own estimate of them is (schedules/x86_amx_tile.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lqcompile.schedules import x86
from lqcompile.schedules.x86_amx_tile import (
    EXPAND_CYCLES,
    L3_RATE,
    LINE_BYTES,
    TILE_ROWS,
    Segments,
    best_group,
    contraction_cycles,
)
from port_model.kernels import LAYER, NETWORKS, layer_plan
from port_model.llvm_mca import X86_64, ModelError, analyse, find, version
from port_model.tables import table
from port_model.transformed import LAYERS, innermost_loops, layer_code, tile_cycles
from ports import LOOPS

from lqcompile.lowering.layers import _Lowering
from lqcompile.lowering.lower import contraction_layers
from lqcompile.target import find as find_target

MACS = {"popcount": {"vpopcnt": 512}, "lut": {"vpshufb": 512}, "dot8": {"vpdpbusd": 64, "vpmaddubsw": 64}}
"""Instruction to the multiply-accumulates of one on 64 bytes; on 32 it is half."""

KERNELS = (
    ("x86-avx512-vpopcntdq", "icelake-server", "popcount", (1, 1), 1),
    ("x86-avx512-vpopcntdq", "icelake-server", "popcount", (1, 2), 1),
    ("x86-avx512-vpopcntdq", "icelake-server", "dot8", (2, 2), 2),
    ("x86-avx512-vnni", "cascadelake", "dot8", (2, 2), 2),
    ("x86-avx512", "skylake-avx512", "dot8", (2, 2), 2),
    ("x86-avx512", "skylake-avx512", "lut", (1, 1), 1),
    ("x86-avx512", "skylake-avx512", "lut", (1, 2), 1),
    ("x86-avx-vnni", "alderlake", "dot8", (2, 2), 2),
)
"""Target, processor of LLVM's, family, bits, and layer of ResNet-18: one that runs on no transformed tiles for dot8."""

TILED = (("x86-avx512-vnni", "cascadelake"), ("x86-avx512-vpopcntdq", "icelake-server"), ("x86-avx-vnni", "alderlake"))
"""Targets with VPDPBUSD, and processors of LLVM's."""


def macs(lines: Sequence[str], family: str) -> int:
    """Multiply-accumulates of some instructions."""
    found = 0
    for line in lines:
        name = next((name for name in MACS[family] if line.removeprefix("{vex}\t").startswith(name)), None)
        if name:
            found += MACS[family][name] // (1 if "zmm" in line else 2)
    return found


def innermost(lines: Sequence[str], family: str) -> list[str]:
    """Instructions of the loop without a loop inside that multiplies most."""
    return max(innermost_loops(lines), key=lambda body: macs(body, family) / len(body))


def kernel_row(tool: str, target: str, core: str, family: str, bits: tuple[int, int], layer: int) -> list[str]:
    """One row of the table of kernels."""
    code = layer_code(layer_plan(NETWORKS["ResNet-18"][layer], bits), find_target(target), family)
    body = max((innermost(lines, family) for lines in code if macs(lines, family)), key=len)
    cycles = analyse(tool, core, {"loop": body}, X86_64)["loop"].simulated
    spills = sum("(%rsp" in line for line in body)
    rate = f"{macs(body, family) / cycles:.0f}"
    return [target, core, f"W{bits[0]}A{bits[1]}", family, f"{cycles:.1f}", rate, str(spills)]


def check_row(tool: str, name: str) -> list[str]:
    """One row of the table of what can be measured here."""
    body = LOOPS[name][0].replace("%%", "%").replace("%1", "%rsi").replace("%2", "%rdi")
    cycles = analyse(tool, "znver3", {"loop": [*body.splitlines(), "dec %r8"]}, X86_64)["loop"].simulated
    return [name, f"{cycles:.1f}"]


def transformed_row(tool: str, target: str, core: str, direct: float, layer: int) -> list[str]:
    """One row of the table of transformed tiles; `direct` is the rate of the inner loop without."""
    shape = LAYERS[layer]
    rate = shape.macs / tile_cycles(tool, find_target(target), core, shape)
    return [target, core, shape.name, f"{rate:.0f}", f"{rate / direct:.2f}"]


TILE_HEAD = (
    "layer on AMX",
    "times",
    "tiles of a group",
    "steps",
    "products",
    "bytes from L3",
    "planes from L3",
    "making bytes",
    "weights",
    "cycles",
    "in bytes",
    "of 1024 per cycle",
)


def tile_rows(weight_bits: int = 2) -> list[list[str]]:
    """The table of AMX, in cycles, and the sum over the network; with all weights in bytes, too, for comparison."""
    target, rows, total, byte_total = find_target("x86-amx"), [], 0.0, 0.0
    for shape in NETWORKS["ResNet-18"]:
        layer = contraction_layers(layer_plan(shape, (weight_bits, 2)), target)[LAYER]
        lowering = _Lowering(layer, target, x86, LAYER)
        contraction, rule, planes = lowering.shape, lowering.rule, lowering.family.weight_planes
        group, segments = best_group(contraction, rule, planes=planes), Segments.of(contraction)
        cycles = contraction_cycles(contraction, rule, group, planes)
        in_bytes = contraction_cycles(contraction, rule, best_group(contraction, rule))
        total, byte_total = total + shape.count * cycles, byte_total + shape.count * in_bytes
        lines = contraction.blocks * segments.steps * segments.lines
        across, down = group.steps(contraction)
        products = contraction.blocks * across * down * group.down * group.across * segments.steps
        far = lines * LINE_BYTES / L3_RATE
        low = "" if shape.edge else f"{far * weight_bits / 8:.0f}"
        rows.append(
            [
                shape.name,
                str(shape.count),
                f"{group.down}x{group.across}x{group.blocks} of {group.rows} rows",
                str(segments.steps),
                f"{products * (group.rows + TILE_ROWS) / 2:.0f}",
                f"{far:.0f}",
                low,
                low and f"{lines * weight_bits * EXPAND_CYCLES:.0f}",
                f"{planes} planes" if planes else "bytes",
                f"{cycles:.0f}",
                f"{in_bytes:.0f}",
                f"{100 * shape.macs / 1024 / cycles:.0f} %",
            ]
        )
    return [*rows, ["all", *[""] * 8, f"{total:.0f}", f"{byte_total:.0f}", ""]]


def main() -> None:
    """Print the tables."""
    try:
        tool = find()
        print(f"Estimates by llvm-mca {version(tool)}, not measurements\n")
        print(table(("loop of benchmarks/ports.py, on Zen 3", "cycles"), [check_row(tool, name) for name in LOOPS]))
        head = ("target", "processor", "bits", "family", "cycles of a step", "per cycle", "spills")
        rows = [kernel_row(tool, *kernel) for kernel in KERNELS]
        print("\n" + table(head, rows))
        direct = {row[0]: float(row[5]) for row in rows if row[3] == "dot8"}
        tiled = [
            transformed_row(tool, target, core, direct[target], layer)
            for target, core in TILED
            for layer in range(len(LAYERS))
        ]
        head = (
            "target",
            "processor",
            "W2A2 layer on transformed tiles",
            "MACs per cycle",
            "of the direct inner loop's",
        )
        print("\n" + table(head, tiled))
    except ModelError as error:
        sys.exit(str(error))
    print("\n" + table(TILE_HEAD, tile_rows()))


if __name__ == "__main__":
    main()
