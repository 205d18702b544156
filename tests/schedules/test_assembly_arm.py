"""What the ARM kernels became: the instructions that each core is for, tiles in registers, nothing that it lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from compiling import compile_plan
from plans import PlanBuilder, random_affine, random_low_bit, random_quantizer, small_network

from lqcompile import cpu
from lqcompile.graph.plan import Geometry, MaxPool, Plan
from lqcompile.target import find, names

TARGETS = [name for name in names() if find(name).schedule == "arm_cpu" and not find(name).variants]

COUNTERS = {"arm-neon": "uqadd", "raspberry-pi-3": "uadalp", "arm-dotprod": "udot"}
"""What adds up bit counts: in bytes, on in-order cores in pairs, and with the dot product."""


def layer(weight_bits: int, act_bits: int, pool: bool) -> tuple[Plan, str]:
    """A 3x3 convolution of 64 channels, and the name of its region."""
    rng = np.random.default_rng(1)
    builder = PlanBuilder(rng, (64, 14, 14))
    codes = builder.quantized_input(random_quantizer(rng, act_bits))
    weights = random_low_bit(rng, (64, 64, 3, 3), weight_bits)
    window = (MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0)),) if pool else ()
    geometry = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    made = builder.contract(
        codes, weights, geometry, (*window, random_affine(rng, 64)), ((random_quantizer(rng, 2), False, ()),)
    )
    return builder.finish(*made), builder.regions[-1].name


def inner_loops(assembly: str, region: str) -> list[list[str]]:
    """Loops without a branch inside that count bits, of the kernel of a region."""
    loops, block, label, inside = [], [], "", False
    for line in assembly.splitlines():
        text = line.split("//")[0].strip()
        symbol = re.match(r"([\w.$]+):", line)
        if symbol and not symbol[1].startswith((".L", "L")):
            inside = region in symbol[1] and "sums" not in symbol[1]
        if symbol and not symbol[1].startswith((".Ltmp", "Ltmp")):
            block, label = [], symbol[1]
        elif inside and text and not symbol and not text.startswith("."):
            block.append(text)
            branch = re.match(r"(?:b\.\w+|cbn?z|tbn?z)\s.*?([.\w$]+)$", text)
            if branch:
                counts = sum(text.startswith("cnt") for text in block)
                loops += [block] if branch[1] == label and counts >= 16 else []
                block, label = [], ""
    return loops


@pytest.mark.parametrize("bits", [(1, 1, False), (1, 2, False), (2, 2, False), (2, 2, True)], ids=str)
@pytest.mark.parametrize("name", COUNTERS)
def test_popcounts_stay_in_registers(name: str, bits: tuple[int, int, bool]) -> None:
    """Three instructions for 128 products of a plane pair, and few beside them; no vector touches the stack."""
    plan, region = layer(*bits)
    loops = inner_loops(compile_plan(plan, find(name)).assembly(), region)
    assert loops
    for loop in loops:
        found = [text.split("\t")[0].split(".")[0] for text in loop]
        counts = found.count("cnt")
        assert found.count("and") == counts == found.count(COUNTERS[name])
        assert len(loop) <= 3 * counts * 1.3
        assert [text for text in loop if "[sp" in text] == []


@pytest.mark.parametrize("name", TARGETS)
def test_the_code_needs_no_more_than_the_target_says(name: str, tmp_path: Path) -> None:
    """An assembler that knows the required features alone takes all of it."""
    target = find(name)
    plan = small_network(np.random.default_rng(1), integer=True, edges="float")
    source = tmp_path / "network.s"
    source.write_text(compile_plan(plan, target).assembly())
    features = "".join(f"+{feature}" for feature in sorted(cpu.normalise(target.features, target.machine)))
    triple = {"linux": "aarch64-linux-none", "darwin": "aarch64-macos"}[target.system]
    command = [sys.executable, "-m", "ziglang", "cc", "-target", triple, f"-mcpu=generic{features}"]
    command += ["-c", str(source), "-o", str(tmp_path / "network.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
