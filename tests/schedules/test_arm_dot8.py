"""8-bit products on ARM: extreme bytes, every kind of chunk, the instructions, and tiles in registers."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from compiling import check_equal, compile_plan, skip_unless_runnable
from lqcompile.schedules.arm_cpu import machine, tile
from lqcompile.schedules.arm_dot8 import REGISTERS, Dot8
from lqcompile.schedules.formats import Format
from lqcompile.schedules.problem import ConvShape, SumRule, Tile
from plans import PlanBuilder, random_affine, random_int8, random_low_bit, random_quantizer, random_uniform

from lqcompile.graph.plan import Geometry, MaxPool, Plan
from lqcompile.lowering.choose import Choice
from lqcompile.target import find

TARGETS = ["arm-neon", "arm-dotprod", "arm-i8mm"]
"""One for each instruction."""

PRODUCTS = {
    "arm-neon": {"smull": 1, "smlsl": 1, "sadalp": 1},
    "raspberry-pi-3": {"smull": 1, "smlsl": 1, "sadalp": 1},
    "arm-dotprod": {"sdot": 1},
    "arm-i8mm": {"usmmla": 1},
}
"""Instructions of the innermost loop, in these proportions."""


def extremes(channels: int, kernel: int) -> tuple[Plan, np.ndarray]:
    """A layer of the least and the largest bytes: -128 and 127 by 0 and 255, in all signs, and random ones."""
    rng = np.random.default_rng([channels, kernel])
    builder = PlanBuilder(rng, (channels, 6, 7))
    codes = builder.quantized_input(replace(random_uniform(rng), scale=np.float32(0.1), zero_point=128))
    weights = random_int8(rng, (18, channels, kernel, kernel))
    values = weights.values.copy()
    values[0], values[1] = -128, 127
    values[2].flat[:] = np.where(np.arange(values[2].size) % 8 < 4, -128, 127)
    geometry = Geometry(kernel=(kernel, kernel), pads=(kernel // 2,) * 4)
    plan = builder.finish(*builder.contract(codes, replace(weights, values=values), geometry))
    x = rng.normal(size=(4, channels, 6, 7)).astype(np.float32) * 5
    x[0], x[1] = -100.0, 100.0
    x[2] = np.where(rng.integers(2, size=x[2].shape), -100.0, 100.0)
    return plan, x


@pytest.mark.parametrize(
    ("channels", "kernel"), [(1, 1), (3, 3), (8, 1), (20, 3), (64, 3), (112, 1)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("name", TARGETS)
def test_extreme_bytes_equal_the_reference(name: str, channels: int, kernel: int) -> None:
    """Runs of one to 48 words: every size of chunk, and rows of the kernel in one piece or not."""
    skip_unless_runnable(find(name))
    plan, x = extremes(channels, kernel)
    check_equal(plan, compile_plan(plan, find(name)).load(), x)


@pytest.mark.parametrize("shape", [(1, 4), (1, 1), (2, 2), (3, 1), (5, 1)], ids=lambda shape: f"{shape[0]}x{shape[1]}")
@pytest.mark.parametrize("name", TARGETS)
def test_every_tile_equals_the_reference(name: str, shape: tuple[int, int]) -> None:
    """Odd numbers of pixels, more accumulators than registers, and tiles that overlap at the end of a row."""
    skip_unless_runnable(find(name))
    rng = np.random.default_rng(shape)
    builder = PlanBuilder(rng, (24, 5, 7))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    weights = random_low_bit(rng, (64, 24, 3, 2), 2, integer=True)
    geometry = Geometry(kernel=(3, 2), pads=(1, 0, 1, 1), dilations=(1, 2))
    plan = builder.finish(*builder.contract(codes, weights, geometry))
    choice = Choice(family="dot8", reason="asked for", tile=Tile(pixels=shape[0], blocks=shape[1]))
    compiled = compile_plan(plan, find(name), choices={"region1": choice})
    check_equal(plan, compiled.load(), rng.normal(size=(2, 24, 5, 7)).astype(np.float32))


def layer(pool: bool) -> tuple[Plan, dict[str, str]]:
    """A 3x3 convolution of 64 channels: plan and families."""
    rng = np.random.default_rng(1)
    builder = PlanBuilder(rng, (64, 14, 14))
    codes = builder.quantized_input(random_quantizer(rng, 2, integer=True))
    window = (MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0)),) if pool else ()
    made = builder.contract(
        codes,
        random_low_bit(rng, (64, 64, 3, 3), 2, integer=True),
        Geometry(kernel=(3, 3), pads=(1, 1, 1, 1)),
        (*window, random_affine(rng, 64)),
        ((random_quantizer(rng, 2), False, ()),),
    )
    return builder.finish(*made), {builder.regions[-1].name: "dot8"}


def blocks(assembly: str, region: str) -> list[list[str]]:
    """Mnemonics, and ``stack`` for what touches it, of each run without branch or label in the kernel of a region."""
    found: list[list[str]] = [[]]
    inside = False
    for line in assembly.splitlines():
        text = line.split("//")[0].strip()
        symbol = re.match(r"([\w.$]+):", line)
        if symbol and not symbol[1].startswith(".L"):
            inside = region in symbol[1] and "sums" not in symbol[1]
        if symbol and not symbol[1].startswith(".Ltmp"):
            found.append([])
        elif inside and re.match(r"[a-z]", text):
            found[-1].append("stack" if "[sp" in text else text.split("\t")[0].split(" ")[0])
            if text.startswith(("b", "cb", "tb")) and ".L" in text:
                found.append([])
    return found


@pytest.mark.parametrize("pool", [False, True], ids=["plain", "pooled"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_the_innermost_loop_multiplies_in_registers(name: str, pool: bool) -> None:
    plan, families = layer(pool)
    main = next(iter(PRODUCTS[name]))
    code = blocks(compile_plan(plan, find(name), families).assembly(), "region1")

    def count(block: list[str], instruction: str) -> int:
        return sum(text in (instruction, f"{instruction}2") for text in block)

    inner = max(code, key=lambda block: count(block, main))
    steps = count(inner, main)
    assert steps >= 16
    for instruction in PRODUCTS[name]:
        assert count(inner, instruction) == steps
    # For the in-order Cortex-A53, LLVM moves products forward and pays with some spills.
    assert inner.count("stack") <= steps / (3 if name == "raspberry-pi-3" else 16)
    assert len(inner) <= 1.75 * steps * len(PRODUCTS[name])


@pytest.mark.parametrize("columns", [1, 7, 56])
@pytest.mark.parametrize("name", TARGETS)
def test_tiles_fit_registers(name: str, columns: int) -> None:
    """The tile that is chosen needs no more registers than there are, and no row repeats more than a pixel in two."""
    isa = machine(find(name))
    shape = ConvShape(
        source=Format(kind="u8", channels=64, height=columns + 2, width=columns + 2),
        kernel=(3, 3),
        strides=(1, 1),
        dilations=(1, 1),
        origin=(0, 0),
        out_height=columns,
        out_width=columns,
        blocks=4,
        words=16,
    )
    family = Dot8(isa=isa)
    chosen = tile(isa, family, shape, SumRule(), (1, 1))
    assert family._registers(shape, chosen.pixels, chosen.blocks) <= REGISTERS
    assert -(-columns // chosen.pixels) * chosen.pixels <= 1.5 * columns


@pytest.mark.parametrize(("run", "instruction"), [(1, "Dot"), (3, "Dot"), (2, "Matrix"), (16, "Matrix")])
def test_matrix_products_need_pairs_of_words(run: int, instruction: str) -> None:
    shape = ConvShape(
        source=Format(kind="u8", channels=4 * run, height=1, width=1, align=4),
        kernel=(1, 1),
        strides=(1, 1),
        dilations=(1, 1),
        origin=(0, 0),
        out_height=1,
        out_width=1,
        blocks=1,
        words=run,
    )
    family = Dot8(isa=machine(find("arm-i8mm")))
    assert type(family.products(shape)).__name__ == instruction
