"""AMX: how bytes and outputs fall into tiles, and kernels of shapes that the operator matrix does not have.

Where the processor has no tile registers, their instructions run in software (`tiles`).
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import tiles
from compiling import AMX, check_equal, compile_plan, missing, unavailable
from lqcompile.schedules import nest, x86, x86_amx, x86_amx_nest
from lqcompile.schedules.formats import Format
from lqcompile.schedules.problem import ConvShape, SumRule
from lqcompile.schedules.x86 import machine
from lqcompile.schedules.x86_amx import DotTiles, tile_configuration
from lqcompile.schedules.x86_amx_expand import PackedTiles
from lqcompile.schedules.x86_amx_tile import (
    ACCUMULATORS,
    CHANNELS,
    FEWEST_STEPS,
    LINE_BYTES,
    TILE_ROWS,
    Segments,
    TileGroup,
    best_group,
    blocks_of,
    tile_groups,
)
from plans import PlanBuilder, random_affine, random_int8, random_low_bit, random_quantizer, random_uniform

from lqcompile.artifact import select_variant
from lqcompile.errors import ArtifactError
from lqcompile.graph.plan import AddValue, Geometry, MaxPool, Plan, Stage
from lqcompile.lowering.layers import layer_tiles
from lqcompile.lowering.lower import contraction_layers, lower
from lqcompile.lowering.parameters import pack_byte_words
from lqcompile.runtime import set_threads
from lqcompile.target import find

TARGET = find(AMX)

POOLS = [(1, 1), (1, 1), (2, 2), (1, 3), (3, 1), (4, 1)]

pytestmark = pytest.mark.skipif(
    bool(unavailable(TARGET)), reason="the vectors around tile instructions need x86-64 with AVX2"
)


def random_shape(rng: np.random.Generator) -> ConvShape:
    """A convolution with any geometry, halo and fused pooling."""
    kernel, strides, dilations = (tuple(int(v) for v in rng.integers(1, 4, 2)) for _ in range(3))
    pool = POOLS[rng.integers(len(POOLS))]
    out = tuple(int(rng.integers(1, 8)) * size for size in pool)
    spare = rng.integers(0, 3, 2)
    origin = tuple(int(v) for v in rng.integers(0, 3, 2))
    size = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(out, strides, kernel, dilations, strict=True)]
    height, width = (int(size[axis] + origin[axis] + spare[axis]) for axis in range(2))
    source = Format(
        kind="u8", channels=int(rng.integers(1, 100)), height=height, width=width, align=int(rng.choice([4, 16]))
    )
    return ConvShape(
        source=source,
        kernel=kernel,
        strides=strides,
        dilations=dilations,
        origin=origin,
        out_height=out[0],
        out_width=out[1],
        blocks=int(rng.integers(1, 9)),
        words=-(-source.channels // 4),
        pool=pool,
    )


def test_the_configuration_has_the_layout_of_ldtilecfg() -> None:
    """Palette at byte 0, bytes of a row as 16-bit numbers from 16 on, rows from 48 on; eight tiles."""
    config = tile_configuration(9, 28)
    assert config.dtype == np.uint8 and config.shape == (64,) and config[0] == 1 and not config[1:16].any()
    assert config[16:48].view(np.uint16).tolist() == [64] * 4 + [28] * 2 + [64] * 2 + [0] * 8
    assert config[48:].tolist() == [9] * 6 + [7] * 2 + [0] * 8


@pytest.mark.parametrize("seed", range(40))
def test_parts_of_segments_multiply_every_input_once(seed: int) -> None:
    """One output computed from the packed weights, part by part, equals the sum over all taps."""
    rng = np.random.default_rng(seed)
    shape = random_shape(rng)
    form, (rows, columns) = shape.source, shape.kernel
    outputs = int(rng.integers((shape.blocks - 1) * CHANNELS + 1, shape.blocks * CHANNELS + 1))
    weights = rng.integers(-128, 128, (outputs, form.channels, rows, columns)).astype(np.int8)
    image = rng.integers(0, 256, (form.padded_height, form.padded_width, form.padded_channels)).astype(np.uint8)
    family, group = DotTiles(isa=machine(TARGET)), best_group(shape, SumRule())
    packed, config = family.operands(pack_byte_words(weights, 1), shape, group)
    segments = Segments.of(shape)
    assert config.tolist() == tile_configuration(group.rows, segments.depth).tolist()
    tiled = packed.reshape(-1, segments.steps, group.blocks, segments.depth // 4, CHANNELS, 4).astype(np.int64)
    flat, total = image.ravel().astype(np.int64), np.zeros((len(tiled), group.blocks, CHANNELS), np.int64)
    for step in range(segments.steps):
        row, column, number = segments.place(step)
        pixel = row * shape.dilations[0] * form.padded_width + column * shape.dilations[1]
        start = pixel * form.padded_channels + segments.starts[number]
        part = flat[start : start + segments.depth].reshape(-1, 4)
        total += np.einsum("gbkci,ki->gbc", tiled[:, step], part)
    taps = image[:: shape.dilations[0], :: shape.dilations[1]][:rows, :columns, : form.channels].astype(np.int64)
    expected = np.einsum("ocrs,rsc->o", weights.astype(np.int64), taps)
    np.testing.assert_array_equal(total.ravel()[:outputs], expected)
    assert not total.ravel()[outputs:].any()


def outputs_of(shape: ConvShape, group: TileGroup) -> list[tuple[int, int]]:
    """(row, column), after pooling, that groups write; the positions of their tiles lie inside the input."""
    (height, width), (down, across) = group.extent(shape), group.stride(shape)
    columns, rows = group.steps(shape)
    found = []
    for row in (min(index * down, height - down) for index in range(rows)):
        for column in (min(index * across, width - across) for index in range(columns)):
            assert row >= 0 and column >= 0
            for y in range(row, row + down):
                for x in range(column, column + across):
                    place = divmod(x, shape.source.padded_width) if group.flat else (y, x)
                    if place[1] < shape.out_width // shape.pool[1]:
                        found.append(place)
    return found


@pytest.mark.parametrize("seed", range(40))
def test_groups_cover_every_output(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape, rule = random_shape(rng), SumRule(act_planes=int(rng.integers(1, 4)))
    expected = {(y, x) for y in range(shape.tile_rows) for x in range(shape.tile_columns)}
    groups = tile_groups(shape, rule)
    assert best_group(shape, rule) in groups
    for group in groups:
        assert set(outputs_of(shape, group)) == expected
        assert group.rows <= TILE_ROWS and group.down * group.across * group.blocks <= ACCUMULATORS
        assert shape.blocks % group.blocks == 0 and group.down % shape.pool[0] == 0
        assert best_group(shape, rule, group.blocks).blocks == group.blocks


@pytest.mark.parametrize("seed", range(20))
def test_groups_fit_without_a_halo(seed: int) -> None:
    """Another halo is what a tile may meet that was chosen by measurement."""
    shape = random_shape(np.random.default_rng(seed))
    expected = {(y, x) for y in range(shape.tile_rows) for x in range(shape.tile_columns)}
    height, width = (
        (out - 1) * stride + (kernel - 1) * dilation + 1
        for out, stride, kernel, dilation in zip(
            (shape.out_height, shape.out_width), shape.strides, shape.kernel, shape.dilations, strict=True
        )
    )
    bare = replace(shape, source=replace(shape.source, height=height, width=width), origin=(0, 0))
    for group in tile_groups(shape, SumRule()):
        assert set(outputs_of(bare, group)) == expected


@pytest.mark.parametrize(("size", "pool"), [(1, None), (8, None), (8, (2, 2)), (8, (4, 1))])
def test_every_tile_that_a_measurement_tries_has_a_group(size: int, pool: tuple[int, int] | None) -> None:
    plan = layer(np.random.default_rng(size), (64, size, size), 256, Geometry(), pool)
    tried = [layer_tiles(found, TARGET, x86) for found in contraction_layers(plan, TARGET).values()]
    assert tried and all(isinstance(tile, TileGroup) for candidates in tried for tile in candidates)


@pytest.mark.parametrize(("inputs", "kernel", "stride"), [(3, 7, 2), (64, 1, 2), (64, 3, 1), (128, 3, 2)])
def test_groups_multiply_four_tiles_in_a_step(inputs: int, kernel: int, stride: int) -> None:
    """Fewer would wait for the sums of the step before, whatever the epilogue takes."""
    size = 55 * stride + kernel
    source = Format(kind="u8", channels=inputs, height=size, width=size, align=4 if inputs == 3 else 16)
    shape = ConvShape(
        source=source,
        kernel=(kernel, kernel),
        strides=(stride, stride),
        dilations=(1, 1),
        origin=(0, 0),
        out_height=56,
        out_width=56,
        blocks=8,
        words=-(-inputs // 4),
    )
    group = best_group(shape, SumRule())
    assert group.down * group.across * group.blocks == ACCUMULATORS


def test_blocks_that_no_group_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^no group of tiles has 5 tiles of channels$"):
        best_group(random_shape(np.random.default_rng(0)), SumRule(), 5)


@pytest.mark.parametrize("tiles_and_columns", [(m, n) for m in range(1, 7) for n in range(1, 7)])
def test_passes_multiply_every_pair_once(tiles_and_columns: tuple[int, int]) -> None:
    found = []
    for block in blocks_of(*tiles_and_columns):
        pairs = [(m, n) for m in block.tiles for n in block.columns]
        assert len(pairs) <= ACCUMULATORS and (len(block.columns) <= 2 or len(block.tiles) == 1)
        found += pairs
    assert sorted(found) == [(m, n) for m in range(tiles_and_columns[0]) for n in range(tiles_and_columns[1])]


def layer(rng: np.random.Generator, shape: tuple[int, ...], outputs: int, geometry: Geometry, pool=None) -> Plan:
    """An 8-bit convolution on an 8-bit image, pooled or not."""
    builder = PlanBuilder(rng, shape)
    image = builder.quantized_input(random_uniform(rng))
    weights = random_int8(rng, (outputs, shape[0], *geometry.kernel))
    weights = replace(weights, values=np.maximum(weights.values, -127))  # a fused pooling cannot negate -128
    stages = [random_affine(rng, outputs, 0.01)]
    if pool:
        stages.append(MaxPool(kernel=pool, strides=pool, pads=(0, 0, 0, 0)))
    made = builder.contract(image, weights, geometry, tuple(stages), ((random_quantizer(rng, 2), False, ()),))
    return builder.finish(*made)


LAYERS = {
    "stem": ((3, 37, 41), 40, Geometry(kernel=(7, 7), strides=(2, 2), pads=(3, 3, 3, 3)), None),
    "pooled stem": ((3, 24, 40), 32, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)), (2, 2)),
    "long rows": ((16, 3, 70), 64, Geometry(kernel=(3, 1), pads=(1, 0, 1, 0)), None),
    "pooled columns": ((20, 8, 33), 70, Geometry(kernel=(1, 2)), (4, 1)),
    "pooled rows": ((64, 5, 24), 16, Geometry(kernel=(2, 2), pads=(1, 1, 0, 0), dilations=(1, 2)), (1, 3)),
    "one pixel": ((200,), 130, Geometry(), None),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_8_bit_layers_equal_the_reference(kind: str) -> None:
    shape, outputs, geometry, pool = LAYERS[kind]
    rng = np.random.default_rng(list(LAYERS).index(kind))
    plan = layer(rng, shape, outputs, geometry, pool)
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    check_equal(plan, compile_plan(plan, TARGET).load(), x)


@pytest.mark.parametrize("family", ["dot8", "planes"])
def test_each_thread_configures_its_tiles(family: str) -> None:
    rng = np.random.default_rng(7)
    builder = PlanBuilder(rng, (64, 30, 30))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    weights = random_low_bit(rng, (96, 64, 3, 3), 2, integer=True)
    outputs = ((random_quantizer(rng, 2), False, ()),)
    made = builder.contract(codes, weights, Geometry(kernel=(3, 3)), (random_affine(rng, 96, 0.01),), outputs)
    plan = builder.finish(*made)
    compiled = compile_plan(plan, TARGET, {builder.regions[-1].name: family})
    model = compiled.load()
    set_threads(2)
    tiles.counts()
    check_equal(plan, model, rng.normal(size=(1, 64, 30, 30)).astype(np.float32))
    if missing(TARGET):
        counts = tiles.counts()
        assert counts["multiply"] > 0 and counts["configure"] == counts["release"] > 3
        assert counts["store"] > 0 and counts["split store"] == 0


def convolution(channels: int, size: int, outputs: int, **changes) -> ConvShape:
    """The loop nest of a 3x3 convolution of a square image that keeps its size."""
    source = Format(kind="u8", channels=channels, height=size, width=size, halo=(1, 1, 1, 1))
    shape = ConvShape(
        source=source,
        kernel=(3, 3),
        strides=(1, 1),
        dilations=(1, 1),
        origin=(0, 0),
        out_height=size,
        out_width=size,
        blocks=-(-outputs // CHANNELS),
        words=-(-channels // 4),
    )
    return replace(shape, **changes)


@pytest.mark.parametrize("seed", range(12))
def test_bit_planes_are_the_weights(seed: int) -> None:
    """A choice of two vectors, and sums of the others where the masks have bits, modulo 256, as the kernel has it."""
    rng = np.random.default_rng(seed)
    planes, factors, groups, blocks = seed % 4 + 1, seed % 3 + 1, 2, 2
    outputs = int(rng.integers(33, 65))
    shape = convolution(int(rng.choice([16, 32, 48, 96])), 5, outputs)
    segments = Segments.of(shape)
    integers = rng.integers(-127 // planes, 127 // planes + 1, (outputs, planes))
    known = np.pad(integers, [(0, groups * blocks * CHANNELS - outputs), (0, 0)])
    signs = rng.choice([-1, 1], (groups, segments.steps, factors, blocks, segments.lines, CHANNELS, 4, planes))
    tiled = np.einsum("gspblciq,gbcq->gspblci", signs, known.reshape(groups, blocks, CHANNELS, planes)).astype(np.int8)
    layout = PackedTiles(planes=planes, factors=factors, vectors=groups * blocks, blocks=blocks, segments=segments)
    packed = layout.pack(tiled, integers)
    assert packed.dtype == np.uint64 and packed.shape == (layout.size,)
    vectors = packed[: layout.head].view(np.uint8).reshape(groups, 1, 1, blocks, 1, planes + 1, LINE_BYTES)
    masks = packed[layout.head :].reshape(groups, segments.steps, factors, blocks, segments.lines, planes)
    bits = np.unpackbits(masks[..., None].view(np.uint8), axis=-1, bitorder="little")
    found = np.where(bits[..., 0, :] == 1, vectors[..., 1, :], vectors[..., 0, :])
    found = found + (bits[..., 1:, :] * vectors[..., 2:, :]).sum(axis=-2, dtype=np.uint8)
    np.testing.assert_array_equal(found.view(np.int8).reshape(tiled.shape), tiled)


def read_as(shape: ConvShape, planes: int) -> str:
    """Element type of the weights that the compiler chooses."""
    family = DotTiles(isa=machine(TARGET)).for_weights(np.ones((shape.blocks * CHANNELS, planes), np.int64))
    return family.proven(np.empty(0), shape).weight_dtype


def test_weights_are_bit_planes_where_the_estimate_says_so() -> None:
    large, small = convolution(512, 7, 512), convolution(64, 56, 64)
    assert [read_as(large, planes) for planes in (1, 2, 3)] == ["uint64"] * 3
    assert read_as(small, 2) == "int8"  # they stay in the second-level cache
    assert read_as(convolution(500, 7, 512), 2) == "int8"  # channels that fill up a vector hold anything
    assert read_as(convolution(2048, 7, 512), 2) == "int8"  # too much for a stack
    few = replace(large, kernel=(1, 1), source=replace(large.source, channels=(FEWEST_STEPS - 1) * 64))
    assert read_as(few, 1) == "int8"


@pytest.mark.parametrize("family", ["dot8", "planes", "8 bits"])
def test_grouped_and_8_bit_weights_stay_bytes(family: str) -> None:
    rng = np.random.default_rng(4)
    builder = PlanBuilder(rng, (512, 7, 7))
    if family == "8 bits":
        image = builder.quantized_input(random_uniform(rng))
        made = builder.contract(image, random_int8(rng, (64, 512, 3, 3)), Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)))
    else:
        codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
        geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1), group=2)
        made = builder.contract(codes, random_low_bit(rng, (64, 256, 3, 3), 2, integer=True), geometry)
    forced = {"region1": "dot8" if family == "8 bits" else family}
    program = lower(builder.finish(*made), TARGET, families=forced)
    (step,) = [step for step in program.steps if step.loop == "DotTiles"]
    assert step.constants[0].dtype == np.int8


PLANES = {
    "one group of overlapping tiles": ((64, 7, 7), 56, 2, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)), None),
    "groups on the same channels": ((64, 14, 14), 64, 3, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)), None),
    "repeated lines": ((96, 9, 10), 70, 1, Geometry(kernel=(5, 3), pads=(2, 1, 2, 1)), None),
    "stride": ((128, 9, 9), 33, 4, Geometry(kernel=(3, 2), strides=(2, 2), pads=(1, 1, 0, 1)), None),
    "plane pairs": ((64, 7, 8), 40, 2, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)), None),
    "pooled and dilated": ((32, 12, 13), 40, 2, Geometry(kernel=(2, 3), dilations=(1, 2)), (2, 2)),
}
"""Input, outputs, bits of the weights, geometry, pooling."""


@pytest.mark.parametrize("kind", PLANES)
def test_layers_of_bit_planes_equal_the_reference(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks of a few groups, some of which start in the middle of those on the same channels."""
    monkeypatch.setattr(x86_amx, "planes_pay", lambda *_: True)
    monkeypatch.setattr(x86_amx_nest, "CHUNK_CYCLES", 1500)
    monkeypatch.setattr(nest, "PARALLEL_MIN_US", 0.0)
    shape, outputs, bits, geometry, pool = PLANES[kind]
    rng = np.random.default_rng(list(PLANES).index(kind))
    builder = PlanBuilder(rng, shape)
    integer = kind != "plane pairs"
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=integer, offset=True))
    weights = random_low_bit(rng, (outputs, shape[0], *geometry.kernel), bits, integer=integer, offset=not integer)
    stages: list[Stage] = [random_affine(rng, outputs, 0.01)]
    if pool:
        stages.append(MaxPool(kernel=pool, strides=pool, pads=(0, 0, 0, 0)))
    elif bits == 2 and integer:  # joins a value in, in float64
        skip = builder.contract(codes, random_low_bit(rng, (outputs, shape[0], 1, 1), 1, integer=True), Geometry())[0]
        stages.append(AddValue(name=skip.name))
    plan = builder.finish(
        *builder.contract(codes, weights, geometry, tuple(stages), ((random_quantizer(rng, 2), False, ()),))
    )
    compiled = compile_plan(plan, TARGET, {builder.regions[-1].name: "dot8" if integer else "planes"})
    assert compiled.program.steps[-2].constants[0].dtype == np.uint64
    model = compiled.load()
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    for threads in (1, 2):
        set_threads(threads)
        check_equal(plan, model, x)


def test_bits_become_bytes_by_masked_additions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask load and a masked instruction for each plane of a line."""
    monkeypatch.setattr(x86_amx, "planes_pay", lambda *_: True)
    rng = np.random.default_rng(5)
    builder = PlanBuilder(rng, (64, 7, 7))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    weights = random_low_bit(rng, (16, 64, 3, 3), 3, integer=True)
    plan = builder.finish(*builder.contract(codes, weights, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))))
    assembly = compile_plan(plan, TARGET, {builder.regions[-1].name: "dot8"}).assembly()
    loads = len(re.findall(r"\skmovq\s+[-\w]*\(\S+\), %k[1-7]\n", assembly))
    additions = len(re.findall(r"\svpaddb\s+%zmm\d+, %zmm\d+, %zmm\d+ \{%k[1-7]\}\n", assembly))
    choices = len(re.findall(r"\s(?:vpblendmb|vmovdqu8)\s+%zmm\d+, (?:%zmm\d+, )?%zmm\d+ \{%k[1-7]\}\n", assembly))
    lines = Segments.of(convolution(64, 7, 16)).lines
    assert loads == len(re.findall(r"\skmovq\s", assembly)) and loads % (3 * lines) == 0 < loads
    assert (choices, additions) == (loads // 3, 2 * loads // 3)  # the first plane chooses one of two vectors


def test_tiles_are_configured_released_and_never_spilled() -> None:
    plan = layer(np.random.default_rng(8), (64, 14, 14), 64, Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)))
    assembly = compile_plan(plan, TARGET).assembly()
    configured, released = (len(re.findall(rf"\s{name}\b", assembly)) for name in ("ldtilecfg", "tilerelease"))
    assert configured == released == 2  # the layer and its kernel of sums
    loads = re.findall(r"\stileloadd\s+(\S+),\s*%tmm[4-7]\n", assembly)
    assert len(loads) == len(re.findall(r"\stileloadd\s", assembly)) > 0  # operands alone are loaded
    assert not any("%rsp" in place for place in loads)
    assert len(re.findall(r"\stdpbusd\s+%tmm[67], %tmm[45], %tmm[0-3]\n", assembly)) >= 8
    assert not re.findall(r"\stilestored\s+%tmm[4-7]", assembly)  # sums alone are stored


def test_other_processors_refuse_it() -> None:
    features = set(find("x86-avx512-vpopcntdq").features)
    variant = {"name": AMX, "requires": list(TARGET.features)}
    manifest = {"machine": "x86_64", "system": "linux", "target": AMX, "variants": [variant]}
    message = (
        r"^artifact for target 'x86-amx': found a CPU without amx-int8, amx-tile, expected them for variant 'x86-amx'; "
        r"build the model again with a --target that this CPU can run \('lqcompile targets' lists them\)$"
    )
    with pytest.raises(ArtifactError, match=message):
        select_variant(manifest, features, machine="x86_64", system="linux")
    chosen = select_variant(manifest, TARGET.features, machine="x86_64", system="linux")
    assert chosen is variant
