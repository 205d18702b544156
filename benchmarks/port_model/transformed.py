"""Transformed tiles of 3x3 layers by llvm-mca: cycles of their loops, times how often these run."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lqcompile.schedules import x86
from lqcompile.schedules.problem import Problem
from lqcompile.schedules.winograd import POSITIONS

from lqcompile.codegen import compile_driver
from lqcompile.graph.plan import Plan
from lqcompile.lowering.driver import lower_program
from lqcompile.lowering.layers import _Lowering
from lqcompile.lowering.lower import contraction_layers, lower
from lqcompile.target import Target

from .kernels import LAYER, NETWORKS, Shape, layer_plan
from .llvm_mca import X86_64, ModelError, analyse
from .loops import functions

LAYERS = tuple(shape for shape in NETWORKS["ResNet-18"] if (shape.kernel, shape.stride) == (3, 1))


def innermost_loops(lines: Sequence[str]) -> list[list[str]]:
    """Instructions of each loop without a loop inside."""
    at = {line[:-1]: index for index, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for index, line in enumerate(lines):
        jump = re.match(r"j\w+\t(\S+)$", line)
        if jump and at.get(jump[1], index) < index:
            loops.append((at[jump[1]], index))
    return [
        [line for line in lines[first : last + 1] if not line.endswith(":")]
        for first, last in loops
        if not any(first < other and end < last for other, end in loops)
    ]


def all_in(family: str, plan: Plan) -> dict[str, str]:
    """A kernel family for every contraction of a plan."""
    return {region.name: family for region in plan.regions[1:]}


def layer_code(plan: Plan, target: Target, family: str) -> list[list[str]]:
    """Lines of the functions of a plan's layer, everything in one kernel family."""
    program = lower(plan, target, families=all_in(family, plan))
    _, driver = lower_program(program)
    text: str = compile_driver(driver, target).mod.inspect_source("asm")
    return [lines for name, lines in functions(text).items() if LAYER in name and "sums" not in name]


def loop_cycles(tool: str, core: str, code: Sequence[Sequence[str]]) -> tuple[float, float, float]:
    """Cycles of one turn of three innermost loops: the products of a word, the input map, and outputs.

    Raises:
        ModelError: the code has no such loops.
    """
    bodies = [body for lines in code for body in innermost_loops(lines)]
    found = []
    for instruction in ("vpdpbusd", "vpsubb", "vpsubd"):
        body = max(bodies, key=lambda lines: sum(f"{instruction}\t" in line for line in lines))
        if not any(f"{instruction}\t" in line for line in body):
            raise ModelError(f"transformed tiles: found no loop with {instruction}")
        found.append(analyse(tool, core, {"loop": body}, X86_64)["loop"].simulated)
    return found[0], found[1], found[2]


def tile_cycles(tool: str, target: Target, core: str, shape: Shape) -> float:
    """Cycles of a W2A2 layer on transformed tiles."""
    plan = layer_plan(shape, (2, 2))
    layer = contraction_layers(plan, target, all_in("dot8", plan))[LAYER]
    lowering = _Lowering(layer, target, x86, LAYER)
    epilogue, _ = lowering._epilogue()
    problem = Problem(shape=lowering.shape, tile=lowering._best_tile(), rule=lowering.rule, epilogue=epilogue)
    nest = lowering.family.builder(lowering.family, problem)
    products, maps, outputs = loop_cycles(tool, core, layer_code(plan, target, "dot8"))
    sums = nest.together * nest.tile.blocks  # each is stored once
    multiplied = nest.stacks * POSITIONS * nest.turns * (nest.shape.words * products + sums)
    vectors = nest.channels // nest.map_lanes
    mapped = nest.parts * nest.group * vectors * maps + nest.stacks * nest.group * nest.tile.blocks * outputs
    return float(nest.groups * (multiplied + mapped))
