"""The model of ARM kernels: how often each part of a function runs, and the products of whole layers."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lqcompile.target import names

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


def passes(text: str) -> dict[str, float]:
    """First instruction of each part to its passes."""
    from port_model.loops import functions, parts

    ((_, lines),) = functions("f:\n" + text).items()
    return {part.lines[0].split("\t")[0]: part.passes for part in parts(lines, "popcount")}


NESTED = """
	mov	w8, wzr
.LBB0_1:
	fadd	d0, d0, d0
	mov	x9, #-64
.LBB0_2:
	cnt	v0.16b, v0.16b
	adds	x9, x9, #16
	b.ne	.LBB0_2
	add	w8, w8, #2
	cmp	w8, #10
	b.ne	.LBB0_1
	ret
"""

LEFT_IN_THE_MIDDLE = """
	mov	w8, #3
	b	.LBB0_2
.LBB0_1:
	fadd	d0, d0, d0
.LBB0_2:
	cnt	v0.16b, v0.16b
	cbz	x8, .LBB0_3
	sub	x8, x8, #1
	b	.LBB0_1
.LBB0_3:
	ret
"""

THREADS = """
	ldr	w8, [x1, #8]
	add	w9, w8, #223
	sdiv	w9, w9, w8
	mul	w8, w9, w0
	add	w9, w9, w8
	cmp	w8, w9
	b.ge	.LBB0_3
	mov	w10, #4096
	movk	w10, #1, lsl #16
.LBB0_1:
	mov	x11, xzr
.LBB0_2:
	cnt	v0.16b, v0.16b
	add	x12, x11, #4096
	cmp	x12, x10
	mov	x11, x12
	b.ne	.LBB0_2
	add	w8, w8, #1
	cmp	w8, w9
	b.ne	.LBB0_1
.LBB0_3:
	ret
"""

BIT = """
	mov	w8, wzr
.LBB0_1:
	cnt	v0.16b, v0.16b
	add	w8, w8, #4
	tbz	w8, #5, .LBB0_1
	ret
"""


def test_nested_loops_multiply() -> None:
    assert passes(NESTED) == pytest.approx({"mov": 1, "fadd": 5, "cnt": 20})


def test_the_part_before_the_exit_runs_once_more() -> None:
    assert passes(LEFT_IN_THE_MIDDLE) == pytest.approx({"mov": 1, "fadd": 3, "cnt": 4})


def test_a_thread_runs_all_tasks() -> None:
    """224 of them, each with 69632 / 4096 passes of the loop inside."""
    found = passes(THREADS)
    assert found["cnt"] == pytest.approx(224 * 17)
    assert found["mov"] == pytest.approx(224)


def test_a_loop_can_end_at_a_bit() -> None:
    assert passes(BIT)["cnt"] == pytest.approx(8)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("cmp\tw8, #10", "cmp\tw8, w10", "ends at 'cmp"),
        ("mov\tw8, wzr", "ldr\tw8, [x0]", "one step and a start that are constants"),
        ("add\tw8, w8, #2", "add\tw8, w8, w3", "one step and a start that are constants"),
    ],
)
def test_loops_of_unknown_length_are_refused(old: str, new: str, message: str) -> None:
    from port_model.llvm_mca import ModelError

    with pytest.raises(ModelError, match=message):
        passes(NESTED.replace(old, new))


def test_a_missing_tool_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from port_model import llvm_mca

    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(llvm_mca.ModelError, match="not found; install it, on Debian with: apt-get install llvm-22"):
        llvm_mca.find()


@pytest.mark.parametrize(("bits", "family"), [((1, 2), "popcount"), ((2, 2), "dot8")])
@pytest.mark.parametrize("target", ["raspberry-pi-3", "raspberry-pi-4", "neoverse-v1"])
def test_the_products_of_a_layer_are_found(target: str, bits: tuple[int, int], family: str) -> None:
    """What its loops multiply is what the layer computes, but for the pixels that tiles repeat at the end of a row."""
    from port_model.kernels import Shape, compile_layer

    shape = Shape(inputs=64, outputs=32, size=12)
    kernel = compile_layer(shape, bits, target, family)
    products = sum(part.macs * part.passes for part in kernel.parts) / kernel.pairs
    assert shape.macs <= round(products) <= 1.3 * shape.macs
    inner = sum(part.macs * part.passes for part in kernel.inner()) / kernel.pairs
    assert inner > 0.3 * products  # the rows of the kernel may be loops of their own


def test_cores_have_targets() -> None:
    import arm_model

    assert {core.target for core in arm_model.CORES} <= set(names())


def test_no_loop_beats_its_bound() -> None:
    """llvm-mca on this machine, where it is installed: hand-written loops on a core with and without dot products."""
    import arm_model
    from port_model import llvm_mca

    try:
        tool = llvm_mca.find()
    except llvm_mca.ModelError as error:
        pytest.skip(str(error))
    rates: dict[str, Any] = {core.name: arm_model.bounds(tool, core) for core in arm_model.CORES[1:3]}
    assert set(rates["cortex-a72"]["int8"]) == {"int8 SMULL"}
    assert max(rates["neoverse-n1"]["int8"].values()) <= 32.1
    assert max(rates["cortex-a72"]["popcount"].values()) <= 93.2


X86_LOOPS = """f:
	xorl	%eax, %eax
.LBB0_1:
	vpxor	%ymm0, %ymm0, %ymm0
	vpdpbusd	%ymm1, %ymm2, %ymm3
.LBB0_2:
	vpbroadcastd	(%rdi,%rax), %ymm2
	{vex}	vpdpbusd	(%rsi,%rax), %ymm2, %ymm0
	vpdpbusd	%zmm4, %zmm5, %zmm6
	addq	$4, %rax
	jne	.LBB0_2
	decl	%ecx
	jne	.LBB0_1
	retq
"""


def test_the_innermost_x86_loop_is_found() -> None:
    """Of AVX-VNNI the prefix stands before the instruction; a vector of 64 bytes multiplies twice as many."""
    from port_model.loops import functions
    from x86_model import innermost, macs

    ((_, lines),) = functions(X86_LOOPS).items()
    body = innermost(lines, "dot8")
    assert len(body) == 5 and body[-1] == "jne\t.LBB0_2"
    assert macs(body, "dot8") == 32 + 64
    assert macs(lines, "dot8") == 32 + 32 + 64
