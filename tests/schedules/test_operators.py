"""Every kernel family on every target against the NumPy reference: integers and codes are equal.

Quantizers get thresholds from the values that they see, so that all codes occur, and thresholds are hit exactly.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from compiling import KERNELS, check_equal, compile_plan, skip_unless_runnable
from plans import (
    PlanBuilder,
    random_affine,
    random_float,
    random_geometry,
    random_int8,
    random_leaky,
    random_low_bit,
    random_quantizer,
    random_uniform,
    small_network,
)

from lqcompile.encoding import activation_levels
from lqcompile.graph.plan import (
    AddValue,
    AveragePool,
    Clamp,
    Contraction,
    Copy,
    Geometry,
    HardSwish,
    MaxPool,
    MultiplyValue,
    Plan,
)
from lqcompile.graph.specs import LowBitWeights, Quantizer
from lqcompile.lowering.choose import RATES, serving
from lqcompile.lowering.families import BYTE_FAMILIES
from lqcompile.lowering.parameters import sixteen_bit_run
from lqcompile.reference import execute_region
from lqcompile.target import Target, find

BITS = ((1, 1), (1, 2), (2, 1), (2, 2), (3, 2), (2, 3), (3, 3), (4, 4), (4, 1), (1, 4))
"""Sampled (Kw, Ka)."""

GROUPS = {1: 1, 3: 3, 33: 3, 70: 2}
"""Input channels to groups: fewer than a word, odd, and more than one or two words."""

POPCOUNT_LANES = {
    "16 lanes": replace(find("x86-avx512-vpopcntdq"), llvm={"mcpu": "cascadelake"}),
    "8 lanes": replace(
        find("x86-avx2"), name="x86-avx512-vpopcntdq", features=(*find("x86-avx2").features, "avx512_vpopcntdq")
    ),
}
"""The VPOPCNTD family for CPUs without it: LLVM expands the count, the loop nest is the same."""


class Sampled(PlanBuilder):
    """A plan builder that runs what it builds: quantizers split the values they will see."""

    def __init__(self, rng, shape, samples=3):
        super().__init__(rng, shape)
        self.held = {"x": rng.normal(size=(samples, *shape)).astype(np.float32)}

    def add(self, operation, inputs, shape, stages=(), outputs=((None, False, ()),)):
        plain = super().add(operation, inputs, shape, stages, tuple((None, False, own) for _, _, own in outputs))
        region = self.regions.pop()
        _, streams = execute_region(self.finish(), region, {**self.held})
        fitted = []
        for value, (quantizer, decoded, own) in zip(plain, outputs, strict=True):
            del self.values[value.name]
            fitted.append((fit(quantizer, streams[value.name]), decoded, own))
        made = super().add(operation, inputs, shape, stages, tuple(fitted))
        _, values = execute_region(self.finish(), self.regions[-1], self.held)
        self.held.update(values)
        return made


def fit(quantizer, stream):
    """Thresholds at quantiles of a stream: values that occur, which the strict comparison must not exceed."""
    if not isinstance(quantizer, Quantizer):
        return quantizer
    count = len(quantizer.thresholds)
    return replace(quantizer, thresholds=np.quantile(stream, np.arange(1, count + 1) / (count + 1), method="lower"))


def every_family(
    rng: np.random.Generator, channels: int, target: str = "x86-avx2"
) -> tuple[Plan, dict[str, str], np.ndarray]:
    """Contractions of every kind on one input, with the family of each."""
    plane_families = [family for family in RATES[target] if family not in BYTE_FAMILIES]
    integer_families = list(RATES[target])
    builder = Sampled(rng, (channels, 8, 9))
    families = {}

    def contract(source, made, geometry, family):
        outputs = len(made.planes) if isinstance(made, LowBitWeights) else len(made.values)
        stages = (random_affine(rng, outputs, 0.2), Clamp(low=-1.0, high=2.0))
        following = random_quantizer(rng, int(rng.integers(1, 5)), integer=bool(rng.integers(2)))
        own = (random_affine(rng, outputs),)
        tails = [((None, False, ()), (following, False, own)), ((following, False, ()),)]
        results = builder.contract(source, made, geometry, stages, tails[rng.integers(2)])
        families[builder.regions[-1].name] = family
        ends.extend(results)

    ends: list = []
    for integer in (False, True):
        bits, act_bits = BITS[rng.integers(len(BITS))]
        codes = builder.quantized_input(random_quantizer(rng, act_bits, integer=integer, offset=True))
        for family in integer_families if integer else plane_families * (2 // len(plane_families)):
            group = GROUPS[channels] if rng.integers(2) else 1
            outputs = group * int(rng.integers(1, 14))
            geometry = random_geometry(rng, group)
            shape = (outputs, channels // group, *geometry.kernel)
            contract(codes, random_low_bit(rng, shape, bits, integer=integer, offset=True), geometry, family)
    image = builder.quantized_input(random_uniform(rng, str(rng.choice(["uint8", "int8"]))))
    geometry = random_geometry(rng, GROUPS[channels])
    shape = (GROUPS[channels] * 2, channels // GROUPS[channels], *geometry.kernel)
    contract(image, random_int8(rng, shape), geometry, "dot8")
    plan = builder.finish(*ends)
    return plan, families, builder.held["x"]


def tails(rng: np.random.Generator) -> tuple[Plan, np.ndarray]:
    """What can follow a contraction: fused, overlapping and padded pooling, residual sums, several outputs."""
    builder = Sampled(rng, (5, 10, 10))
    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    relu = Clamp(low=0.0, high=np.inf)
    square = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    overlapping = MaxPool(kernel=(3, 3), strides=(2, 2), pads=(1, 1, 0, 1))
    ends = []
    for integer in (True, False):
        codes = builder.quantized_input(random_quantizer(rng, 2, integer=integer, offset=True))

        def coder(bits=2, integer=integer):
            return random_quantizer(rng, bits, integer=integer, offset=True)

        def weights(outputs, bits, integer=integer):
            return random_low_bit(rng, (outputs, 5, 3, 3), bits, integer=integer, offset=True)

        pooled = builder.contract(
            codes,
            weights(9, 2),
            around,
            (random_affine(rng, 9), square, random_affine(rng, 9), relu),
            ((coder(), False, ()), (coder(3), False, (random_affine(rng, 9),))),
        )
        wide = builder.contract(
            codes, weights(7, 1), around, (overlapping, random_affine(rng, 7), relu), ((coder(), False, ()),)
        )
        skip = builder.contract(codes, weights(5, 1), around, (random_affine(rng, 5),))[0]
        joined = builder.contract(
            codes,
            weights(5, 2),
            around,
            (random_affine(rng, 5), AddValue(name=skip.name), relu),
            ((None, False, ()), (coder(), False, ()), (coder(), True, ())),
        )
        ends += [*pooled, *wide, skip, *joined]
    image = builder.quantized_input(random_uniform(rng, "int8"))
    # -128 in a channel whose scale is negative: it has no int8 counterpart.
    shrunk = random_affine(rng, 6, 0.01)
    shrunk = replace(shrunk, scale=-np.abs(shrunk.scale))
    ends += builder.contract(
        image, random_int8(rng, (6, 5, 3, 3)), around, (shrunk, square), ((random_quantizer(rng, 2), False, ()),)
    )
    # Sums are pooled before anything else happens to them.
    stages = (random_affine(rng, 6, 0.01), relu, overlapping, random_affine(rng, 6))
    tail = ((None, False, ()), (random_quantizer(rng, 2), False, ()))
    ends += builder.contract(image, random_int8(rng, (6, 5, 3, 3)), around, stages, tail)
    return builder.finish(*ends), builder.held["x"]


def activations(rng: np.random.Generator) -> tuple[Plan, np.ndarray]:
    """Maps other than clamps, behind contractions and alone, and products with a tensor or a number per channel."""
    builder = Sampled(rng, (5, 10, 10))
    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    square = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    swish = HardSwish(alpha=float(np.float32(1 / 6)), beta=0.5)
    leaky, falling = random_leaky(rng, 9), random_leaky(rng, 9, falling=True)
    ends = []
    for integer in (True, False):
        codes = builder.quantized_input(random_quantizer(rng, 2, integer=integer, offset=True))

        def weights(bits, integer=integer):
            return random_low_bit(rng, (9, 5, 3, 3), bits, integer=integer, offset=True)

        coder = random_quantizer(rng, 2, integer=integer)
        both = ((coder, False, ()), (coder, False, (falling, random_affine(rng, 9))), (coder, False, (leaky,)))
        for chain in ((random_affine(rng, 9), leaky), (leaky, random_affine(rng, 9), square), (swish,), (falling,)):
            ends += builder.contract(codes, weights(2), around, chain, both)
        # A clamp in front of an affine map that turns the order, and then a maximum.
        turned = replace(random_affine(rng, 9), scale=-rng.uniform(0.5, 1.5, 9))
        ends += builder.contract(codes, weights(1), around, (Clamp(low=0.0, high=1.5), turned, square), both[:1])
        stream = builder.contract(codes, weights(2), around, (random_affine(rng, 9),))[0]
        size = AveragePool(kernel=(10, 10), strides=(1, 1), pads=(0, 0, 0, 0))
        gate = builder.add(size, (stream,), (9, 1, 1), (Clamp(low=0.0, high=1.0),))[0]
        for factor in (stream, gate):
            stages = (random_affine(rng, 9), MultiplyValue(name=factor.name), Clamp(low=-2.0, high=3.0))
            ends += builder.contract(codes, weights(1), around, stages, ((None, False, ()), (coder, False, (swish,))))
        uniform = random_uniform(rng, "int8" if integer else "uint8")
        ends += builder.add(
            Copy(), (stream,), (9, 10, 10), (leaky, MultiplyValue(name=gate.name)), ((uniform, True, (swish,)),)
        )
    return builder.finish(*ends), builder.held["x"]


@pytest.mark.parametrize("channels", GROUPS)
@pytest.mark.parametrize("name", KERNELS)
def test_every_family_equals_the_reference(name: str, channels: int) -> None:
    skip_unless_runnable(find(name))
    plan, families, x = every_family(np.random.default_rng([KERNELS.index(name), channels]), channels, name)
    compiled = compile_plan(plan, find(name), families)
    assert {region: choice.family for region, choice in compiled.program.choices.items()} == families
    check_equal(plan, compiled.load(), x)


@pytest.mark.parametrize("name", KERNELS)
def test_what_follows_a_contraction_equals_the_reference(name: str) -> None:
    skip_unless_runnable(find(name))
    plan, x = tails(np.random.default_rng(KERNELS.index(name)))
    check_equal(plan, compile_plan(plan, find(name)).load(), x)


@pytest.mark.parametrize("name", KERNELS)
def test_activations_equal_the_reference(name: str) -> None:
    skip_unless_runnable(find(name))
    plan, x = activations(np.random.default_rng([7, KERNELS.index(name)]))
    check_equal(plan, compile_plan(plan, find(name)).load(), x)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", KERNELS)
def test_narrow_images_equal_the_reference(name: str, seed: int) -> None:
    """First layers: few channels, read by rows of taps or a word a pixel, of any kernel, stride and padding."""
    skip_unless_runnable(find(name))
    rng = np.random.default_rng([KERNELS.index(name), seed])
    channels, outputs = seed + 1, int(rng.integers(1, 70))
    builder = Sampled(rng, (channels, *(int(size) for size in rng.integers(17, 30, 2))))
    image = builder.quantized_input(random_uniform(rng, str(rng.choice(["uint8", "int8"]))))
    kernel, strides, pads = rng.integers(1, 8, 2), rng.integers(1, 4, 2), rng.integers(0, 4, 4)
    geometry = Geometry(
        kernel=tuple(kernel.tolist()), strides=tuple(strides.tolist()), pads=tuple(pads.tolist()), dilations=(2, 1)
    )
    weights = random_int8(rng, (outputs, channels, *geometry.kernel))
    coder = random_quantizer(rng, 2)
    stream, codes = builder.contract(
        image, weights, geometry, (random_affine(rng, outputs, 0.1),), ((None, False, ()), (coder, False, ()))
    )
    follower = builder.contract(codes, random_low_bit(rng, (4, outputs, 1, 1), 2), Geometry())
    plan = builder.finish(stream, *follower)
    check_equal(plan, compile_plan(plan, find(name)).load(), builder.held["x"])


@pytest.mark.parametrize("channels", [7, 16, 48])
@pytest.mark.parametrize("name", KERNELS)
def test_outputs_of_different_padding_equal_the_reference(name: str, channels: int) -> None:
    """Bit planes pad channels to 32, float32 and bytes to 16: vectors of the former must not reach the next pixel."""
    skip_unless_runnable(find(name))
    rng = np.random.default_rng([KERNELS.index(name), channels])
    builder = Sampled(rng, (channels, 8, 8))
    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    families, stream = {}, None
    for family in ("popcount", "dot8", "popcount", "popcount"):
        if stream is None:
            codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
        weights = random_low_bit(rng, (channels, channels, 3, 3), 2, integer=True)
        stages = (random_affine(rng, channels), *(() if stream is None else (AddValue(name=stream.name),)))
        own = (random_affine(rng, channels), Clamp(low=0.0, high=np.inf))
        coder = random_quantizer(rng, 2, integer=True)
        stream, codes = builder.contract(codes, weights, around, stages, ((None, False, ()), (coder, False, own)))
        families[builder.regions[-1].name] = family
    plan = builder.finish(stream)
    check_equal(plan, compile_plan(plan, find(name), families).load(), builder.held["x"])


@pytest.mark.parametrize(("integer", "edges"), [(True, "int8"), (False, "float")])
@pytest.mark.parametrize("name", KERNELS)
def test_networks_equal_the_reference(name: str, integer: bool, edges: str) -> None:
    skip_unless_runnable(find(name))
    rng = np.random.default_rng(KERNELS.index(name))
    plan = small_network(rng, integer=integer, edges=edges)
    x = rng.normal(size=(3, *plan.inputs[0].shape)).astype(np.float32)
    check_equal(plan, compile_plan(plan, find(name)).load(), x, tolerance=1e-4)


@pytest.mark.parametrize("name", KERNELS)
def test_float_layers_are_close_to_the_reference(name: str) -> None:
    skip_unless_runnable(find(name))
    rng = np.random.default_rng(KERNELS.index(name))
    builder = PlanBuilder(rng, (33, 7, 9))
    geometry = Geometry(kernel=(3, 2), strides=(2, 1), pads=(1, 0, 2, 1), dilations=(1, 2), group=3)
    plain = builder.contract(builder.input, random_float(rng, (6, 11, 3, 2)), geometry, (random_affine(rng, 6, 0.1),))
    pool = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))
    falling = (random_affine(rng, 20, 0.1), pool)
    low = builder.contract(
        builder.input, random_low_bit(rng, (20, 33, 1, 1), 3, offset=True), Geometry(), falling, ((None, False, ()),)
    )
    plan = builder.finish(*plain, *low)
    x = rng.normal(size=(2, 33, 7, 9)).astype(np.float32)
    compiled = compile_plan(plan, find(name))
    assert [choice.family for choice in compiled.program.choices.values()] == ["float", "packed"]
    check_equal(plan, compiled.load(), x, tolerance=1e-4)


@pytest.mark.parametrize("target", POPCOUNT_LANES.values(), ids=POPCOUNT_LANES)
def test_vector_popcount_equals_the_reference(target: Target) -> None:
    runs_on = find("x86-avx512-vnni" if target.lanes == 16 else "x86-avx2")
    skip_unless_runnable(runs_on)
    plan, families, x = every_family(np.random.default_rng(target.lanes), 70, target.name)
    check_equal(plan, compile_plan(plan, target, families).load(), x)


@pytest.mark.parametrize("bits", BITS)
def test_every_bit_width_on_avx2(bits: tuple[int, int]) -> None:
    """Each family, on odd channels, a stride, a dilation and uneven padding, more channels than a vector of bytes."""
    target = find("x86-avx2")
    skip_unless_runnable(target)
    rng = np.random.default_rng(bits)
    builder = Sampled(rng, (37, 9, 8))
    families, ends = {}, []
    geometry = Geometry(kernel=(3, 2), strides=(1, 2), pads=(1, 0, 2, 1), dilations=(2, 1))
    for integer in (False, True):
        codes = builder.quantized_input(random_quantizer(rng, bits[1], integer=integer, offset=True))
        for family in ("popcount", "lut", "dot8") if integer else ("popcount", "lut"):
            weights = random_low_bit(rng, (45, 37, 3, 2), bits[0], integer=integer, offset=True)
            stages = (random_affine(rng, 45, 0.1),)
            ends += builder.contract(codes, weights, geometry, stages, ((random_quantizer(rng, 2), False, ()),))
            families[builder.regions[-1].name] = family
    plan = builder.finish(*ends)
    check_equal(plan, compile_plan(plan, target, families).load(), builder.held["x"])


RUNS = {(85, 170): 0, (42, 170): 1, (42, 85): 2, (42, 42): 4, (21, 21): 8, (2, 2): 24}
"""(Larger weight basis, larger code basis), each twice its smaller one, to words summed in 16 bits over 32 channels."""


def largest_products() -> tuple[Plan, dict[str, str]]:
    """A layer for each of RUNS: weights and codes at their limits, all of one sign in some channels."""
    rng = np.random.default_rng(list(RUNS.values()))
    builder = PlanBuilder(rng, (32, 5, 6))
    families, ends = {}, []
    for (weight_basis, code_basis), run in RUNS.items():
        quantizer, basis = random_quantizer(rng, 2, integer=True), np.float32([code_basis // 2, code_basis])
        levels, codes = activation_levels(basis.astype(np.float64) * quantizer.scale, 0.0)
        thresholds = np.array([-8.0, -4.0, 1.0], np.float32)
        quantizer = replace(
            quantizer, basis=basis, levels=levels.astype(np.float32), codes=codes, thresholds=thresholds
        )
        weights = random_low_bit(rng, (40, 32, 3, 3), 2, integer=True)
        planes = weights.planes.copy()
        planes[:8], planes[8:16] = 255, 0
        weights = replace(weights, planes=planes, basis=np.tile(np.float32([weight_basis // 2, weight_basis]), (40, 1)))
        assert sixteen_bit_run(weights.integers(), int(basis.sum())) == run
        source = builder.quantized_input(quantizer)
        ends += builder.contract(source, weights, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)))
        families[builder.regions[-1].name] = "dot8"
    return builder.finish(*ends), families


@pytest.mark.parametrize("name", KERNELS)
def test_the_largest_products_do_not_saturate(name: str) -> None:
    skip_unless_runnable(find(name))
    plan, families = largest_products()
    x = np.random.default_rng(KERNELS.index(name)).normal(size=(2, 32, 5, 6)).astype(np.float32)
    check_equal(plan, compile_plan(plan, find(name), families).load(), x)


@pytest.mark.parametrize("name", KERNELS)
def test_linear_layers_equal_the_reference(name: str) -> None:
    """Thousands of inputs: more words than a flush of byte counters or a run of adders takes."""
    skip_unless_runnable(find(name))
    rng = np.random.default_rng(KERNELS.index(name))
    builder = Sampled(rng, (2085,))
    codes = builder.quantized_input(random_quantizer(rng, 2, offset=True))
    integers = builder.quantized_input(random_quantizer(rng, 1, integer=True))
    ends = builder.contract(codes, random_low_bit(rng, (19, 2085), 1, offset=True), Geometry())
    ends += builder.contract(integers, random_low_bit(rng, (37, 2085), 2, integer=True), Geometry())
    plan = builder.finish(*ends)
    families = {region.name: "popcount" for region in plan.regions if isinstance(region.operation, Contraction)}
    check_equal(plan, compile_plan(plan, find(name), families).load(), builder.held["x"])


@pytest.mark.parametrize("name", KERNELS)
def test_every_family_is_in_the_matrix(name: str) -> None:
    rng = np.random.default_rng(0)
    plan, families, _ = every_family(rng, 3, name)
    possible = set()
    for region in plan.regions:
        if isinstance(region.operation, Contraction):
            possible.update(serving(region.operation, plan.values[region.inputs[0]].quantizer, name))
    assert set(families.values()) == possible == set(RATES[name])
