"""Points of the design spaces, drawn anew in every run, against the reference: tuning may choose any of them."""

from __future__ import annotations

import importlib
import secrets
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from compiling import missing
from lqcompile.schedules.problem import CHANNELS_OUTERMOST, ROWS_OUTERMOST, Tile
from lqcompile.schedules.row_tiles import RowTileBuilder
from lqcompile.schedules.space import Space
from plans import PlanBuilder, random_affine, random_geometry, random_low_bit, random_quantizer

from lqcompile.graph.plan import Geometry, MaxPool, Plan
from lqcompile.kernels import Kernels
from lqcompile.lowering.choose import RATES, Candidate, serving
from lqcompile.lowering.layers import layer_space
from lqcompile.lowering.lower import contraction_layers
from lqcompile.target import find
from lqcompile.trials import compile_trials, expected_integers, is_equal, make_trial, sample_values, with_family

TARGET = find("x86-avx2")

needs_avx2 = pytest.mark.skipif(bool(missing(TARGET)), reason=f"this machine lacks {missing(TARGET)}")

ORDERS = (CHANNELS_OUTERMOST, ROWS_OUTERMOST)

POINTS = 2
"""Of each design space; the default is among those of all other tests."""


def random_plan(rng: np.random.Generator) -> Plan:
    """Contractions of random odd shapes: one and two activation bits, with and without pooling, integers or not."""
    channels, height, width = (int(rng.integers(low, high)) for low, high in ((1, 140), (5, 9), (5, 14)))
    builder = PlanBuilder(rng, (channels, height, width))
    ends = []
    for act_bits in (1, 2):
        integer = bool(rng.integers(2))
        codes = builder.quantized_input(random_quantizer(rng, act_bits, integer=integer))
        for pooled in (False, True):
            geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)) if pooled else random_geometry(rng)
            outputs, bits = int(rng.integers(1, 140)), int(rng.integers(1, 4))
            stages = (MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0)),) if pooled else ()
            weights = random_low_bit(rng, (outputs, channels, *geometry.kernel), bits, integer=integer)
            coder = (random_quantizer(rng, 2), False, ())
            ends += builder.contract(codes, weights, geometry, (random_affine(rng, outputs), *stages), (coder,))
    return builder.finish(*ends)


def draw(rng: np.random.Generator, space: Space) -> Candidate:
    """A point of a design space; its family is filled in by the caller."""
    values = {name: int(rng.choice(offered)) for name, offered in space.knobs.items()}
    return Candidate(family="", tile=space.choose(int(rng.integers(len(space.tiles))), values))


@needs_avx2
def test_random_points_of_every_family_equal_the_reference() -> None:
    seed = secrets.randbits(32)
    rng = np.random.default_rng(seed)
    plan, schedule = random_plan(rng), importlib.import_module(f"lqcompile.schedules.{TARGET.schedule}")
    seen = set()
    for name, layer in contraction_layers(plan, TARGET).items():
        trials = []
        for family in serving(layer.operation, layer.quantizer, TARGET.name):
            variant = with_family(plan, layer, family, "source")
            space = layer_space(variant, TARGET, schedule)
            for number in range(POINTS):
                tile = draw(rng, space).tile
                assert tile is not None and space.place(tile) is not None, (seed, name, tile)
                # Small inputs are not offered both orders; they must hold all the same.
                point = Candidate(family=family, tile=replace(tile, order=ORDERS[number % len(ORDERS)]))
                trials.append(make_trial(variant, point, TARGET, f"{family}{number}"))
            seen.add(family)
        values = sample_values(plan, [layer.region])
        compiled = compile_trials(plan, trials, TARGET, values)
        steps, expected = Kernels(compiled.job), expected_integers(plan, layer.region, values)
        assert expected is not None
        for trial, check in zip(trials, compiled.checks, strict=True):
            assert is_equal(steps, check, expected), f"seed {seed}, {name}: {trial.candidate}"
    assert seen >= {"popcount", "lut"} and seen <= set(RATES[TARGET.name])


def test_each_decision_has_its_turn_among_the_neighbours() -> None:
    tiles = (Tile(pixels=2, blocks=1), Tile(pixels=1, blocks=2))
    space = Space(tiles=tiles, knobs={"unroll": (1, 2, 4), "split": (1, 2)})
    assert space.neighbours() == [
        Tile(pixels=2, blocks=1, unroll=2),
        Tile(pixels=2, blocks=1, split=2),
        tiles[1],
        Tile(pixels=2, blocks=1, unroll=4),
    ]


@pytest.mark.parametrize(
    ("target", "kernel", "offered"),
    [
        ("x86-avx2", "popcount", {(300, 70): True, (300, 40): False, (8, 70): False}),
        ("x86-avx2", "lut", {(300, 40): True, (300, 20): False, (40, 40): False}),
        ("arm-neon", "popcount", {(300, 40): True, (300, 8): False, (10, 40): False}),
    ],
)
def test_orders_are_offered_where_tiles_of_channels_read_a_large_input_again(
    target: str, kernel: str, offered: dict[tuple[int, int], bool]
) -> None:
    machine = find(target)
    schedule = importlib.import_module(f"lqcompile.schedules.{machine.schedule}")
    for (outputs, size), expected in offered.items():
        builder = PlanBuilder(np.random.default_rng(0), (256, size, size))
        codes = builder.quantized_input(random_quantizer(builder.rng, 2, integer=False))
        weights = random_low_bit(builder.rng, (outputs, 256, 1, 1), 1, integer=False)
        plan = builder.finish(*builder.contract(codes, weights, Geometry()))
        (layer,) = contraction_layers(plan, machine).values()
        space = layer_space(with_family(plan, layer, kernel, "source"), machine, schedule)
        assert space.knobs.get("order", ()) == (ORDERS if expected else ()), (outputs, size)
        assert space.tiles[0].order == CHANNELS_OUTERMOST


def test_orders_visit_each_row_of_each_tile_of_channels_once() -> None:
    places = {}
    for order in ORDERS:
        nest: Any = SimpleNamespace(tile=Tile(pixels=1, blocks=1, order=order), tasks=6)
        places[order] = [RowTileBuilder.place(nest, index, 3) for index in range(6)]
    assert places[CHANNELS_OUTERMOST] == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert places[ROWS_OUTERMOST] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
