"""Networks that kernels for GPUs are tested with, emulated (tests/cuda) and on a GPU (tests/on_gpu)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from plans import (
    random_affine,
    random_float,
    random_geometry,
    random_int8,
    random_low_bit,
    random_quantizer,
    random_uniform,
    small_network,
)

from lqcompile.graph.plan import Affine, Contraction, Geometry, MaxPool, Plan
from lqcompile.lowering.choose import MEASURED_FAMILIES, serving

sys.path.append(str(Path(__file__).parent / "schedules"))
from test_join import joined_codes
from test_operators import Sampled, every_family, tails

SQUARE = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A network, samples for it, the kernel families of some of its regions, and what float32 may differ."""

    plan: Plan
    x: np.ndarray
    families: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.0


def families_case(target: str, *, channels: int, seed: int) -> Case:
    """Every family on random shapes, strides, padding, dilation and groups."""
    plan, families, x = every_family(np.random.default_rng([seed, channels]), channels, target)
    for region in plan.regions:
        if isinstance(region.operation, Contraction):
            offered = serving(region.operation, plan.values[region.inputs[0]].quantizer, target)
            if families[region.name] not in offered:  # more pairs of planes than tensor cores have registers for
                families[region.name] = "popcount"
    return Case(plan=plan, x=x, families=families)


def tails_case(target: str, *, seed: int) -> Case:
    """What can follow a contraction; some of them on CUDA cores."""
    plan, x = tails(np.random.default_rng(seed))
    contractions = [region.name for region in plan.regions if isinstance(region.operation, Contraction)]
    exact = [name for name in contractions if name != contractions[-1]]
    return Case(plan=plan, x=x, families=dict.fromkeys(exact[seed % 2 :: 2], "popcount"))


def tiles_case(target: str, *, seed: int) -> Case:
    """Sizes of tile; words that are copied by 16, 8 and 4 bytes; a depth that ends within a chunk; pooling."""
    rng = np.random.default_rng(seed)
    ends, families = [], {}
    builder = Sampled(rng, (128, 6, 7))
    for bits, outputs, integer, channels, stages, family in (
        ((2, 2), 64, True, 128, (), "b1mma"),
        ((1, 1), 100, False, 70, (SQUARE,), "b1mma"),
        ((3, 2), 33, False, 60, (), "b1mma"),
        ((2, 1), 64, True, 70, (SQUARE,), "i8mma"),
    ):
        codes = builder.quantized_input(random_quantizer(rng, bits[1], integer=integer, offset=True))
        if channels < 128:
            narrow = random_low_bit(rng, (channels, 128, 1, 1), 1, integer=integer)
            coder = random_quantizer(rng, bits[1], integer=integer, offset=True)
            codes = builder.contract(codes, narrow, Geometry(), (), ((coder, False, ()),))[0]
        geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1), strides=(2, 1) if bits[0] == 3 else (1, 1))
        weights = random_low_bit(rng, (outputs, channels, 3, 3), bits[0], integer=integer, offset=True)
        own = (random_affine(rng, outputs, 0.2), *stages)
        ends += builder.contract(codes, weights, geometry, own, ((random_quantizer(rng, 2), False, ()),))
        families[builder.regions[-1].name] = family
    image = builder.quantized_input(random_uniform(rng, "int8"))
    around = Geometry(kernel=(3, 3), pads=(1, 0, 1, 2), dilations=(2, 1))
    # Weights of -128 have no negative: where a scale is below 0 the pooling would not run in the kernel.
    rising = Affine(scale=rng.uniform(0.001, 0.01, 40), shift=rng.normal(size=40))
    triple = MaxPool(kernel=(1, 3), strides=(1, 3), pads=(0, 0, 0, 0))
    ends += builder.contract(image, random_int8(rng, (40, 128, 3, 3)), around, (rising, triple))
    return Case(plan=builder.finish(*ends), x=builder.held["x"], families=families)


def warpgroups_case(target: str, *, seed: int) -> Case:
    """Families that only measuring chooses, `b1mma` where there are none: offsets, groups, pooling, parts of values."""
    rng = np.random.default_rng(seed)
    ends, families = [], {}
    builder = Sampled(rng, (66, 6, 9))
    for bits, outputs, integer, group, stages in (
        ((2, 2), 128, False, 1, (SQUARE,)),
        ((1, 2), 34, True, 2, ()),
    ):
        codes = builder.quantized_input(random_quantizer(rng, bits[1], integer=integer, offset=True))
        geometry = Geometry(kernel=(3, 2), pads=(1, 0, 2, 1), strides=(1, group), group=group)
        weights = random_low_bit(rng, (outputs, 66 // group, 3, 2), bits[0], integer=integer, offset=group == 1)
        own = (random_affine(rng, outputs, 0.2), *stages)
        ends += builder.contract(codes, weights, geometry, own, ((random_quantizer(rng, 2), False, ()),))
        families[builder.regions[-1].name] = MEASURED_FAMILIES.get(target, ("b1mma",))[0]
    return Case(plan=builder.finish(*ends), x=builder.held["x"], families=families)


def image_case(target: str, *, seed: int) -> Case:
    """First layers: images of three channels, a word a pixel; and a linear layer of bytes behind them."""
    rng = np.random.default_rng(seed)
    builder = Sampled(rng, (3, 9, 33), samples=2)
    image = builder.quantized_input(random_uniform(rng))
    geometry = Geometry(kernel=(5, 7), strides=(2, 2), pads=(3, 2, 3, 2))
    outputs = ((None, False, ()), (random_uniform(rng, "int8"), False, ()))
    first, codes = builder.contract(
        image, random_int8(rng, (33, 3, 5, 7)), geometry, (random_affine(rng, 33, 1e-3),), outputs
    )
    whole = Geometry(kernel=codes.shape[1:])
    last = builder.contract(codes, random_int8(rng, (35, *codes.shape)), whole, (random_affine(rng, 35, 1e-3),))[0]
    return Case(
        plan=builder.finish(first, last), x=builder.held["x"], families={"region1": "i8mma", "region2": "i8mma"}
    )


def network_case(target: str, *, integer: bool, seed: int) -> Case:
    """A residual network with every kind of region, its first and last layers on bytes."""
    rng = np.random.default_rng(seed)
    plan = small_network(rng, integer=integer, edges="int8")
    return Case(plan=plan, x=rng.normal(size=(3, *plan.inputs[0].shape)).astype(np.float32), tolerance=1e-4)


def joined_case(target: str, *, seed: int) -> Case:
    """Codes that are joined as they are packed."""
    rng = np.random.default_rng(seed)
    plan, families = joined_codes(rng)
    return Case(plan=plan, x=rng.normal(size=(2, *plan.inputs[0].shape)).astype(np.float32), families=families)


def unusual_case(target: str, *, seed: int) -> Case:
    """Layers of float weights, weight-only ones on packed weights, and depthwise ones."""
    rng = np.random.default_rng(seed)
    builder = Sampled(rng, (40, 5, 6))
    falling = (random_affine(rng, 20, 0.1), SQUARE)
    ends = builder.contract(
        builder.input, random_low_bit(rng, (20, 40, 1, 1), 3, offset=True), Geometry(), falling, ((None, False, ()),)
    )
    grouped = Geometry(kernel=(3, 2), strides=(2, 1), pads=(1, 0, 2, 1), dilations=(1, 2), group=2)
    ends += builder.contract(builder.input, random_float(rng, (6, 20, 3, 2)), grouped, (random_affine(rng, 6, 0.1),))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    geometry = random_geometry(rng, 40)
    ends += builder.contract(codes, random_low_bit(rng, (40, 1, *geometry.kernel), 2, integer=True), geometry)
    return Case(plan=builder.finish(*ends), x=builder.held["x"], tolerance=1e-4)


CASES: dict[str, Callable[[str], Case]] = {
    "families of 70 channels": partial(families_case, channels=70, seed=7),
    "tails": partial(tails_case, seed=5),
    "tiles of tensor cores": partial(tiles_case, seed=2),
    "an image and a linear layer": partial(image_case, seed=4),
    "warpgroups": partial(warpgroups_case, seed=1),
    "network of integers": partial(network_case, integer=True, seed=5),
    "joined codes": partial(joined_case, seed=1),
    "float, weight-only and depthwise": partial(unusual_case, seed=3),
}
"""By name, for the name of a target."""

MATRIX: dict[str, Callable[[str], Case]] = {
    **CASES,
    "network of real bases": partial(network_case, integer=False, seed=5),
    **{
        f"families {channels} {seed}": partial(families_case, channels=channels, seed=seed)
        for channels in (1, 3, 33, 70)
        for seed in range(4)
    },
    **{f"tails {seed}": partial(tails_case, seed=seed) for seed in range(4)},
    **{f"tiles {seed}": partial(tiles_case, seed=seed) for seed in range(4)},
    **{f"images {seed}": partial(image_case, seed=seed) for seed in range(4)},
}
"""What a real GPU is tested with."""
