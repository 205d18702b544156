"""Which loop nests threads share: any builder's, where the work is worth starting them, and never a kernel of sums."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lqcompile.schedules import nest
from plans import PlanBuilder, random_float, random_low_bit, random_quantizer

from lqcompile.encoding import activation_levels
from lqcompile.graph.plan import Geometry, Plan
from lqcompile.lowering.choose import FLOAT_FAMILIES
from lqcompile.lowering.lower import lower
from lqcompile.lowering.program import Program
from lqcompile.target import find

FAMILIES = {
    "x86-avx2": {
        "popcount": "PopcountBytes",
        "lut": "LookupLevels",
        "dot8": "WinogradBytes",
        "float": "FloatFma",
        "packed": "Packed",
    },
    "x86-avx512-vnni": {"popcount": "PopcountCarrySave", "dot8": "WinogradVnni"},
    "x86-amx": {"planes": "DotTiles", "dot8": "DotTiles"},
    "arm-neon": {"popcount": "Popcount", "dot8": "Dot8", "float": "FloatLanes"},
}
"""By target, the families whose nests have builders of their own, and the class that a layer of 3x3 taps gets."""

CASES = [(target, family) for target, families in FAMILIES.items() for family in families]

AROUND = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))


def layer(family: str, channels: int, size: int) -> Plan:
    """One layer of 3x3 taps on a square image."""
    rng = np.random.default_rng([channels, size])
    builder = PlanBuilder(rng, (channels, size, size))
    shape = (channels, channels, 3, 3)
    if family == "float":
        return builder.finish(*builder.contract(builder.input, random_float(rng, shape), AROUND))
    if family == "packed":
        return builder.finish(*builder.contract(builder.input, random_low_bit(rng, shape, 2), AROUND))
    # Integers as small as look-ups of levels and transformed tiles of bytes ask for.
    quantizer, basis = random_quantizer(rng, 2, integer=True), np.float32([1, 2])
    levels, codes = activation_levels(basis.astype(np.float64) * quantizer.scale, 0.0)
    quantizer = replace(quantizer, basis=basis, levels=levels.astype(np.float32), codes=codes)
    weights = replace(random_low_bit(rng, shape, 2, integer=True), basis=np.tile(basis, (channels, 1)))
    return builder.finish(*builder.contract(builder.quantized_input(quantizer), weights, AROUND))


def lowered(target: str, family: str, channels: int, size: int) -> Program:
    """The program of one layer, whose contraction is of the class that FAMILIES names."""
    plan = layer(family, channels, size)
    region = plan.regions[-1].name
    program = lower(plan, find(target), families={region: family})
    assert [step.loop for step in program.steps if step.loop] == [FAMILIES[target][family]]
    return program


def parallel_loops(program: Program) -> int:
    """Parallel loops of the contraction."""
    (step,) = (step for step in program.steps if step.loop)
    return step.function.script().count("T.parallel(")


@pytest.mark.parametrize(("target", "family"), CASES)
def test_threads_share_what_is_worth_it(target: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = (128, 28), (32, 4)
    program = lowered(target, family, *large)
    assert parallel_loops(program) >= 1
    assert not any("T.parallel(" in kernel.step.function.script() for kernel in program.sums)
    assert len(program.sums) == (family not in FLOAT_FAMILIES)
    assert parallel_loops(lowered(target, family, *small)) == 0
    monkeypatch.setattr(nest, "PARALLEL_MIN_US", 1e9)
    assert parallel_loops(lowered(target, family, *large)) == 0
