"""First layers on transformed tiles of cells, against the reference and at the limits of their 16 and 32 bits."""

from __future__ import annotations

import re

import numpy as np
import pytest
from compiling import check_equal, compile_plan, unavailable
from lqcompile.schedules.cells import POINTS, SIDE, transformed, weight_map
from lqcompile.schedules.x86_amx import DotTiles
from lqcompile.schedules.x86_cells import DotCells
from lqcompile.schedules.x86_dot8 import DotRows, DotVnni
from plans import PlanBuilder, random_affine, random_int8, random_quantizer, random_uniform

from lqcompile.graph.plan import Clamp, Geometry, MaxPool, Plan
from lqcompile.graph.specs import Int8Weights, UniformQuantizer
from lqcompile.lowering.lower import lower
from lqcompile.target import Target, find

TARGET = find("x86-avx2")

LAYERS = (((7, 2), (5, 2), (11, 4)), ((8, 4), (6, 2), (9, 3)))
"""(Taps, stride) of the rows and columns: 4, 3, 3 cells of taps; 2, 3, 3."""

SAVING = (((11, 4), (9, 3), (12, 4)), ((11, 4), (10, 4), (9, 3)))
"""Those that save so many products that they pay with VNNI."""


def on(*names: str) -> pytest.MarkDecorator:
    """Runs a test for some targets, where the machine or an emulated one has what they need."""
    lacking = {name: unavailable(find(name)) for name in names}
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=[pytest.mark.skipif(bool(lacks), reason=f"this machine lacks {lacks}")])
            for name, lacks in lacking.items()
        ],
    )


def loops(plan: Plan, target: Target = TARGET) -> list[str]:
    """The inner loops of a plan's contractions."""
    return [step.loop for step in lower(plan, target).steps if step.loop]


def one_layer(values: np.ndarray, image: tuple[int, int], geometry: Geometry, quantizer: UniformQuantizer) -> Plan:
    """A layer on an image, without stages behind it."""
    rng = np.random.default_rng(0)
    builder = PlanBuilder(rng, (values.shape[1], *image))
    weights = Int8Weights(values=values.astype(np.int8), scale=np.ones(len(values), np.float32))
    return builder.finish(*builder.contract(builder.quantized_input(quantizer), weights, geometry))


def codes_from_zero() -> UniformQuantizer:
    """Codes 0 to 255 of values 0 to 255."""
    return UniformQuantizer(name="codes", scale=np.float32(1), zero_point=0, dtype="uint8")


def test_points_are_what_the_maps_are_made_of() -> None:
    """G evaluates taps at each point, times its factor; the last row takes the highest power."""
    made = weight_map(4)
    assert made.shape == (SIDE, 4)
    for row, (point, factor) in zip(made, POINTS, strict=False):
        assert row.tolist() == [factor * point**power for power in range(4)]
    assert made[-1, :-1].tolist() == [0, 0, 0]


def test_transformed_weights_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(1)
    values = rng.integers(-128, 128, (3, 2, 7, 7)).astype(np.int8)
    padded = np.pad(values.astype(np.int64), [(0, 0), (0, 0), (0, 1), (0, 1)])
    expected = np.empty((SIDE, SIDE, 2, 2, 2, 3), np.int64)
    for y in range(2):
        for x in range(2):
            phase = padded[:, :, y::2, x::2]
            expected[:, :, y, x] = np.einsum("ir,ocrs,js->ijco", weight_map(4), phase, weight_map(4))
    assert np.array_equal(transformed(values, 2), expected.reshape(36, 8, 3))


@on("x86-avx2", "x86-avx512", "x86-avx-vnni", "x86-avx512-vnni")
@pytest.mark.parametrize("seed", range(2))
def test_cells_equal_the_reference(seed: int, name: str) -> None:
    """Odd sizes and paddings, channels that fill no vector, codes and values, pooling that overlaps."""
    rng = np.random.default_rng([3, seed])
    channels = (3, 2)[seed]
    layers, smallest = (SAVING, 32) if "vnni" in name else (LAYERS, 22)
    builder = PlanBuilder(rng, (channels, *(int(size) for size in rng.integers(smallest, smallest + 18, 2))))
    codes = builder.quantized_input(random_uniform(rng, ("uint8", "int8")[seed]))
    pool = MaxPool(kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    ends = []
    for index, (size, stride) in enumerate(layers[seed]):
        outputs = int(rng.integers(3, 40))
        pads = tuple(int(pad) for pad in rng.integers(0, size // 2 + 1, 4))
        weights = random_int8(rng, (outputs, channels, size, size))
        coder = (random_quantizer(rng, 2, integer=True), False, ())
        relu = (random_affine(rng, outputs, 0.01), Clamp(low=0.0, high=np.inf))
        stages, tail = ((relu, (coder,)), ((*relu, pool), (coder,)), (relu, ((None, False, ()),)))[index]
        geometry = Geometry(kernel=(size, size), strides=(stride, stride), pads=pads)
        ends += builder.contract(codes, weights, geometry, stages, tail)
    plan = builder.finish(*ends)
    compiled = compile_plan(plan, find(name))
    assert [step.loop for step in compiled.program.steps if step.loop] == [DotCells.__name__] * 3
    check_equal(plan, compiled.load(), rng.normal(size=(2, *plan.inputs[0].shape)).astype(np.float32))


@on("x86-avx2", "x86-avx512-vnni")
def test_the_largest_sums_come_back(name: str) -> None:
    """576 Y passes 32 bits and wraps around; transformed weights and codes reach the ends of 16 bits."""
    rng = np.random.default_rng(4)
    size, stride = (11, 4) if "vnni" in name else (7, 2)
    taps, image = (3, size, size), (30, 31)
    values = np.full((8, *taps), 127)
    values[1] = -127
    values[2:4] = rng.choice([-127, 127], (2, *taps))
    for row, sign in enumerate((-1, 1)):  # what the points -1 and 1 meet
        values[4 + row] = 127 * np.fromfunction(lambda c, y, x, sign=sign: sign ** (y // stride + x // stride), taps)
    plan = one_layer(values, image, Geometry(kernel=(size, size), strides=(stride, stride)), codes_from_zero())
    x = rng.choice([0.0, 255.0], size=(3, 3, *image)).astype(np.float32)
    x[1] = 255.0
    x[2] = 255.0 * (np.indices(image).sum(axis=0) // stride % 2)
    assert 576 * np.prod(taps) * 127 * 255 > 1 << 31
    assert loops(plan, find(name)) == [DotCells.__name__]
    check_equal(plan, compile_plan(plan, find(name)).load(), x)


def test_other_layers_read_rows_of_taps() -> None:
    """Weights whose transforms pass 16 bits, few taps, uneven strides, dilation, outputs of less than a tile."""
    square = Geometry(kernel=(7, 7), strides=(2, 2))
    served = np.full((4, 3, 7, 7), -127)
    cases = (
        (served, square, (20, 20)),
        (np.full((4, 3, 7, 7), -128), square, (20, 20)),
        (served[:, :, :3, :3], Geometry(kernel=(3, 3)), (20, 20)),
        (served, Geometry(kernel=(7, 7), strides=(2, 1)), (20, 20)),
        (served, Geometry(kernel=(7, 7), strides=(2, 2), dilations=(2, 1)), (30, 20)),
        (served, Geometry(kernel=(7, 7)), (20, 20)),
        (served, square, (9, 20)),
    )
    found = [loops(one_layer(values, image, geometry, codes_from_zero())) for values, geometry, image in cases]
    assert found == [[DotCells.__name__], *([DotRows.__name__],) * 6]


@pytest.mark.parametrize(
    ("name", "family"),
    [("x86-avx512", DotCells), ("x86-avx512-vnni", DotVnni), ("x86-avx-vnni", DotVnni), ("x86-amx", DotTiles)],
)
def test_bytes_multiply_where_they_take_few_products(name: str, family: type) -> None:
    """With VNNI 11x11 taps at stride 4 pay, 7x7 at 2 do not, nor both of one image; AMX multiplies bytes faster."""
    rng = np.random.default_rng(8)
    builder = PlanBuilder(rng, (3, 40, 40))
    images = [builder.quantized_input(codes_from_zero()) for _ in range(3)]
    ends = []
    for image, (size, stride) in zip((*images, images[2]), ((11, 4), (7, 2), (11, 4), (7, 2)), strict=True):
        geometry = Geometry(kernel=(size, size), strides=(stride, stride))
        ends += builder.contract(image, random_int8(rng, (32, 3, size, size)), geometry)
    alone = DotCells if family is DotVnni else family
    assert loops(builder.finish(*ends), find(name)) == [kind.__name__ for kind in (alone, family, family, family)]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("x86-avx2", {"vpmaddwd": 64, "vpbroadcastd": 32, "vpaddd": 64}),
        ("x86-avx512", {"vpmaddwd": 64, "vpbroadcastd": 32, "vpaddd": 64}),
        ("x86-avx512-vnni", {"vpdpwssd": 80, "vpbroadcastd": 40, "vpaddd": 0}),
    ],
)
def test_the_inner_loop_multiplies_words_in_registers(name: str, counts: dict[str, int]) -> None:
    """Eight words of four or five tiles by two vectors: one broadcast for two, and sums that stay where they are."""
    rng = np.random.default_rng(7)
    values = rng.integers(-127, 128, (32, 3, 11, 11))
    plan = one_layer(values, (60, 60), Geometry(kernel=(11, 11), strides=(4, 4)), codes_from_zero())
    text = compile_plan(plan, find(name)).assembly()
    bodies = [body.splitlines() for body in re.split(r"^\.LBB\w+:", text, flags=re.MULTILINE)]
    main = next(iter(counts))
    body = max(bodies, key=lambda lines: (sum(f"\t{main}\t" in line for line in lines), -len(lines)))
    assert counts == {name: sum(f"\t{name}\t" in line for line in body) for name in counts}
    assert not [line for line in body if "%rsp" in line and "mm" in line]
