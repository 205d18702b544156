"""The kernel family of a contraction, the reason given, and the families that can be asked for."""

from __future__ import annotations

import numpy as np
import pytest
from plans import (
    PlanBuilder,
    random_float,
    random_int8,
    random_low_bit,
    random_quantizer,
    random_uniform,
)

from lqcompile.errors import UnsupportedError
from lqcompile.graph.plan import Geometry, Plan
from lqcompile.lowering.choose import RATES, choose, serving
from lqcompile.lowering.lower import lower
from lqcompile.target import find

RNG = np.random.default_rng(0)

CASES = {
    "bases": ("low", random_quantizer(RNG, 2), ("popcount",), "bases are not integers, 4 plane pairs"),
    "8 bits": ("int8", random_uniform(RNG), ("dot8",), "8-bit weights on 8-bit codes"),
    "float": ("float", random_uniform(RNG), ("float",), "weights are float32"),
    "weight-only": ("low", None, ("float",), "weight-only: 2-bit weights on float32 input"),
    "mixed": ("int8", random_quantizer(RNG, 2), ("float",), "8-bit weights on codes of another kind"),
}


def layer(weights: str, quantizer: object) -> Plan:
    rng = np.random.default_rng(1)
    builder = PlanBuilder(rng, (4, 3, 3))
    shape = (5, 4, 1, 1)
    made = {
        "low": lambda: random_low_bit(rng, shape, 2),
        "integer": lambda: random_low_bit(rng, shape, 2, integer=True),
        "int8": lambda: random_int8(rng, shape),
        "float": lambda: random_float(rng, shape),
    }[weights]()
    return builder.finish(*builder.contract(builder.quantized_input(quantizer), made, Geometry()))


@pytest.mark.parametrize("target", RATES)
@pytest.mark.parametrize("kind", CASES)
def test_layers_that_one_family_serves(kind: str, target: str) -> None:
    weights, quantizer, families, reason = CASES[kind]
    contraction = layer(weights, quantizer).regions[-1].operation
    assert serving(contraction, quantizer) == families
    choice = choose(contraction, quantizer, target)
    assert (choice.family, choice.reason) == (families[0], reason)


@pytest.mark.parametrize("target", RATES)
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_integer_bases_get_the_faster_family(target: str, bits: int) -> None:
    quantizer = random_quantizer(np.random.default_rng(bits), bits, integer=True)
    contraction = layer("integer", quantizer).regions[-1].operation
    assert serving(contraction, quantizer) == ("popcount", "dot8")
    choice = choose(contraction, quantizer, target)
    popcount, dot8 = RATES[target]["popcount"] / (2 * bits), RATES[target]["dot8"]
    assert choice.family == ("popcount" if popcount > dot8 else "dot8")
    ratio, other = max(popcount, dot8) / min(popcount, dot8), {"popcount", "dot8"} - {choice.family}
    assert choice.reason == f"cost table: {ratio:.1f} x {other.pop()} at {2 * bits} plane pairs"


@pytest.mark.parametrize("family", ["popcount", "dot8"])
def test_a_family_can_be_asked_for(family: str) -> None:
    plan = layer("integer", random_quantizer(np.random.default_rng(2), 2, integer=True))
    program = lower(plan, find("x86-avx2"), families={"region1": family})
    assert (program.choices["region1"].family, program.choices["region1"].reason) == (family, "asked for")


def test_a_family_that_does_not_serve_is_refused() -> None:
    plan = layer("low", CASES["bases"][1])
    message = (
        r"^node 'region1' \(Contraction\): found kernel family 'dot8' asked for, expected popcount; ask for that or "
        r"leave the choice to the cost table$"
    )
    with pytest.raises(UnsupportedError, match=message):
        lower(plan, find("x86-avx2"), families={"region1": "dot8"})
