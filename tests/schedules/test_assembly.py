"""What the kernels became: the instruction that a target is for, no contracted rounding, tiles in registers."""

from __future__ import annotations

import re

import numpy as np
import pytest
from compiling import X86, compile_plan
from plans import PlanBuilder, random_affine, random_low_bit, random_quantizer

from lqcompile.graph.plan import Geometry
from lqcompile.target import find

INSTRUCTIONS = {
    ("x86-avx2", "popcount"): ["vpshufb", "vpmaddubsw"],
    ("x86-avx2", "lut"): ["vpshufb", "vbroadcasti128"],
    ("x86-avx2", "dot8"): ["vpmaddubsw", "vpaddw", "vpmaddwd"],
    ("x86-avx-vnni", "popcount"): ["vpshufb", "vpdpbusd"],
    ("x86-avx-vnni", "dot8"): ["vpdpbusd"],
    ("x86-avx512", "popcount"): ["vpternlog", "vpshufb", "vpmaddwd"],
    ("x86-avx512", "lut"): ["vpshufb", "vbroadcasti32x4"],
    ("x86-avx512", "dot8"): ["vpmaddubsw", "vpaddw", "vpmaddwd"],
    ("x86-avx512-vnni", "popcount"): ["vpternlog", "vpshufb", "vpdpbusd"],
    ("x86-avx512-vnni", "dot8"): ["vpdpbusd"],
    ("x86-avx512-vpopcntdq", "popcount"): ["vpopcntd"],
    ("x86-avx512-vpopcntdq", "dot8"): ["vpdpbusd"],
    ("x86-amx", "popcount"): ["vpopcntd"],
    ("x86-amx", "dot8"): ["tdpbusd", "tileloadd", "tilestored", "tilezero"],
}


VEX = "{vex}"
"""Marks instructions of AVX-VNNI: without it the same name is one of AVX-512."""

LABEL = "label"
"""Stands for a jump target between instructions."""


def conv(family: str, *, integer: bool) -> tuple[object, dict[str, str]]:
    """A 3x3 convolution of 64 channels with a float64 epilogue: plan and families."""
    rng = np.random.default_rng(1)
    builder = PlanBuilder(rng, (64, 14, 14))
    codes = builder.quantized_input(random_quantizer(rng, 1 if family == "popcount" else 2, integer=integer))
    weights = random_low_bit(rng, (64, 64, 3, 3), 1, integer=integer)
    geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    made = builder.contract(codes, weights, geometry, (random_affine(rng, 64),))
    return builder.finish(*made), {builder.regions[-1].name: family}


def functions(assembly: str) -> dict[str, list[str]]:
    """Instructions of each function by its symbol."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in assembly.splitlines():
        symbol = re.match(r"([\w.$]+):", line)
        if symbol and not symbol[1].startswith((".L", "L")):
            name = symbol[1]
        elif symbol:
            found.setdefault(name, []).append(LABEL)
        elif re.match(r"\s+(\{vex\}\s+)?[a-z]", line):
            found.setdefault(name, []).append(line.strip().removeprefix(VEX).strip())
    return found


@pytest.fixture(scope="module", params=INSTRUCTIONS, ids=lambda key: f"{key[0]}-{key[1]}")
def kernel(request: pytest.FixtureRequest) -> tuple[str, str, list[str]]:
    """(target, family, instructions of the convolution and what it runs in threads, without the kernel of sums)."""
    name, family = request.param
    plan, families = conv(family, integer=family == "dot8")
    code = functions(compile_plan(plan, find(name), families).assembly())
    lines = [line for symbol, body in code.items() if "region1" in symbol and "sums" not in symbol for line in body]
    assert lines, sorted(code)
    return name, family, lines


def test_the_matrix_names_every_target() -> None:
    assert {name for name, _ in INSTRUCTIONS} == set(X86)


def test_it_uses_the_instruction_that_the_target_is_for(kernel: tuple[str, str, list[str]]) -> None:
    name, family, lines = kernel
    wide = "%ymm" if find(name).lanes == 8 else "%zmm"
    for instruction in INSTRUCTIONS[name, family]:
        registers = "%tmm" if instruction.startswith("t") else wide
        assert any(line.startswith(instruction) and registers in line for line in lines), instruction


def test_avx_vnni_needs_no_avx512() -> None:
    plan, families = conv("dot8", integer=True)
    assembly = compile_plan(plan, find("x86-avx-vnni"), families).assembly()
    assert "%zmm" not in assembly and "%k1" not in assembly
    assert assembly.count("vpdpbusd") == len(re.findall(r"\{vex\}\s+vpdpbusd", assembly)) > 0


def test_the_float64_epilogue_rounds_each_product(kernel: tuple[str, str, list[str]]) -> None:
    _, _, lines = kernel
    assert any(line.startswith("vmulpd") for line in lines)
    assert [line for line in lines if re.match(r"vfn?m(add|sub)\w*pd", line)] == []


def test_the_register_tile_is_not_spilled(kernel: tuple[str, str, list[str]]) -> None:
    """In the run of instructions without a branch that multiplies most, few vectors touch the stack."""
    name, family, lines = kernel
    if family == "popcount" and "vpopcntd" not in INSTRUCTIONS[name, family]:
        pytest.skip("LLVM moves loads of the long unrolled run to its front and spills them")
    main = INSTRUCTIONS[name, family][0]
    blocks: list[list[str]] = [[]]
    for line in lines:
        blocks[-1].append(line)
        if line == LABEL or line.startswith("j"):
            blocks.append([])
    inner = max(blocks, key=lambda block: sum(line.startswith(main) for line in block))
    steps = sum(line.startswith(main) for line in inner)
    spills = sum(bool(re.search(r"\(%r[sb]p\)", line)) and bool(re.search(r"%[yz]mm", line)) for line in inner)
    assert steps >= 4
    assert spills <= steps / 4, f"{spills} of {len(inner)} instructions, {steps} of them {main}"
