"""Inner loops written by hand: the best that fp32, int8 and popcount matrix multiplication reach on a core.

Register tiles are those of the fastest public libraries: 8x12 outputs for FMLA and SDOT, 8x8 for SMMLA, 4x4 for
SMULL and CNT; operands come from packed panels and are loaded as early as a register is free.
"""

from __future__ import annotations

from dataclasses import dataclass

LOOP_END = ("subs x3, x3, #1", "b.ne 0b")


@dataclass(frozen=True, kw_only=True)
class HandWritten:
    """An inner loop.

    Args:
        name: for people.
        kind: ``fp32``, ``int8`` or ``popcount``.
        lines: instructions of one pass.
        macs: multiply-accumulates of one pass (bit pairs for popcount).
        feature: what the core must have beyond NEON, empty for nothing.
    """

    name: str
    kind: str
    lines: tuple[str, ...]
    macs: int
    feature: str = ""


def outer_product(operation: str, whole: str, element: str, macs: int) -> tuple[tuple[str, ...], int]:
    """8x12 outputs of an instruction that multiplies a vector by one element of another."""
    lines = []
    for j in range(3):
        for i in range(8):
            lines.append(f"{operation} v{i * 3 + j}.4s, v{26 + j}.{whole}, v{24 + i // 4}.{element}[{i % 4}]")
            if j == 2 and i % 4 == 3:
                lines.append(f"ldr q{24 + i // 4}, [x1], #16")
        lines.append(f"ldr q{26 + j}, [x2], #16")
    return (*lines, *LOOP_END), macs


def matrix() -> tuple[tuple[str, ...], int]:
    """8x8 outputs by SMMLA: 4x4 registers of 2x2 outputs, 8 bytes deep."""
    lines = []
    for i in range(4):
        for j in range(4):
            lines.append(f"smmla v{i * 4 + j}.4s, v{16 + i}.16b, v{20 + j}.16b")
            if j == 3:
                lines.append(f"ldr q{16 + i}, [x1], #16")
            if i == 3:
                lines.append(f"ldr q{20 + j}, [x2], #16")
    return (*lines, *LOOP_END), 8 * 8 * 8


def widening() -> tuple[tuple[str, ...], int]:
    """4x4 outputs, 16 bytes deep, by SMULL, SMLAL2 and SADALP: two products of at most 127 * 128 fit 16 bits."""
    tile = [(i, j) for i in range(4) for j in range(4)]
    lines = []
    for first in range(0, 16, 8):
        group = tile[first : first + 8]
        lines += [f"smull v{24 + n}.8h, v{16 + i}.8b, v{20 + j}.8b" for n, (i, j) in enumerate(group)]
        for n, (i, j) in enumerate(group):
            lines.append(f"smlal2 v{24 + n}.8h, v{16 + i}.16b, v{20 + j}.16b")
            if j == 3:
                lines.append(f"ldr q{16 + i}, [x1], #16")
            if i == 3:
                lines.append(f"ldr q{20 + j}, [x2], #16")
        lines += [f"sadalp v{i * 4 + j}.4s, v{24 + n}.8h" for n, (i, j) in enumerate(group)]
    return (*lines, *LOOP_END), 4 * 4 * 16


def counting(accumulate: str) -> tuple[tuple[str, ...], int]:
    """4x4 outputs, 128 bits deep, by AND and CNT; `accumulate` adds the counts, flushes are left out."""
    tile = [(i, j) for i in range(4) for j in range(4)]
    lines = []
    for first in range(0, 16, 8):
        group = tile[first : first + 8]
        for n, (i, j) in enumerate(group):
            lines.append(f"and v{24 + n}.16b, v{16 + i}.16b, v{20 + j}.16b")
            if j == 3:
                lines.append(f"ldr q{16 + i}, [x1], #16")
            if i == 3:
                lines.append(f"ldr q{20 + j}, [x2], #16")
        lines += [f"cnt v{24 + n}.16b, v{24 + n}.16b" for n in range(8)]
        lines += [accumulate.format(sum=i * 4 + j, count=24 + n) for n, (i, j) in enumerate(group)]
    return (*lines, *LOOP_END), 4 * 4 * 128


def hand_written() -> tuple[HandWritten, ...]:
    """All of them."""
    loops = (
        ("fp32 FMLA", "fp32", "", outer_product("fmla", "4s", "s", 96)),
        ("int8 SMULL", "int8", "", widening()),
        ("int8 SDOT", "int8", "dotprod", outer_product("sdot", "16b", "4b", 384)),
        ("int8 SMMLA", "int8", "i8mm", matrix()),
        ("CNT, ADD", "popcount", "", counting("add v{sum}.16b, v{sum}.16b, v{count}.16b")),
        ("CNT, UADALP", "popcount", "", counting("uadalp v{sum}.8h, v{count}.16b")),
        ("CNT, UDOT", "popcount", "dotprod", counting("udot v{sum}.4s, v{count}.16b, v24.16b")),
    )
    return tuple(
        HandWritten(name=name, kind=kind, lines=lines, macs=macs, feature=feature)
        for name, kind, feature, (lines, macs) in loops
    )
