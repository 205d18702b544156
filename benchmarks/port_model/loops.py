"""How often each part of a function in aarch64 assembly runs, from its branches and the constants that they compare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .llvm_mca import ModelError

MACS = {
    "popcount": ((r"cnt\tv\d+\.16b", 128),),
    "dot8": (
        (r"[us]*dot\tv\d+\.4s", 16),
        (r"[us]*mmla\tv\d+\.4s", 32),
        (r"(smull|smlal|smlsl)2?\tv\d+\.8h", 8),
    ),
}
"""Instructions of a kernel family that multiply, and the multiply-accumulates of each (bit pairs for CNT)."""

BRANCH = r"(b\.\w+|b|cbn?z|tbn?z|ret)(\t|$)"
SETTER = r"(subs|adds|cmp|cmn|ands|tst)\t"


@dataclass(eq=False)
class Block:
    """Instructions without a branch or label between.

    Args:
        label: at its start, or empty.
        lines: instructions.
        next: blocks that may follow: the target of its branch, then the block behind it, if there are such.
    """

    label: str
    lines: list[str] = field(default_factory=list)
    next: list[int] = field(default_factory=list)

    def macs(self, family: str) -> int:
        """Multiply-accumulates of one pass."""
        return sum(macs for line in self.lines for pattern, macs in MACS[family] if re.match(pattern, line))


@dataclass(frozen=True, eq=False, kw_only=True)
class Part:
    """Blocks that run equally often, in one innermost loop.

    Args:
        lines: instructions.
        passes: how often they run in a call.
        macs: multiply-accumulates of one pass.
        loop: header of the innermost loop, -1 for none.
    """

    lines: tuple[str, ...]
    passes: float
    macs: int
    loop: int


def functions(assembly: str) -> dict[str, list[str]]:
    """Lines of each function: instructions and, with a colon at the end, labels.

    What a function runs in threads has no name of its own: it is called after the function before it.
    """
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    name = ""
    for text in assembly.splitlines():
        line = text.split("//")[0].rstrip()
        symbol = re.match(r"([\w.$]+):$", line)
        threads = symbol and symbol[1].startswith(".L__tvm_parallel_lambda")
        if symbol and (threads or not symbol[1].startswith(".L")):
            name = f"{name} in threads" if threads else symbol[1]
            lines = found.setdefault(name, [])
        elif (symbol and symbol[1].startswith(".LBB")) or re.match(r"\t[a-z{]", line):
            lines.append(line.strip())
    return found


def parts(lines: Sequence[str], family: str) -> list[Part]:
    """The parts of a function of a kernel family with the passes of each in one call by one thread.

    Raises:
        ModelError: a loop whose length the assembly does not tell.
    """
    blocks = split(lines)
    loops = natural_loops(blocks)
    chances = np.zeros((len(blocks), len(blocks)))
    for index, block in enumerate(blocks):
        for target, chance in zip(block.next, branch_chances(blocks, loops, index, family), strict=True):
            chances[index, target] += chance
    entry = np.zeros(len(blocks))
    entry[0] = 1
    passes = np.linalg.solve(np.eye(len(blocks)) - chances.T, entry)
    groups: dict[tuple[int, float], list[Block]] = {}
    for index, block in enumerate(blocks):
        if block.lines and passes[index] > 0:
            groups.setdefault((innermost(loops, index), round(float(passes[index]), 6)), []).append(block)
    return [
        Part(
            lines=tuple(line for block in group for line in block.lines),
            passes=count,
            macs=sum(block.macs(family) for block in group),
            loop=loop,
        )
        for (loop, count), group in groups.items()
    ]


def split(lines: Sequence[str]) -> list[Block]:
    """The blocks of a function."""
    blocks = [Block(label="")]
    for line in lines:
        if line.endswith(":"):
            blocks.append(Block(label=line[:-1]))
            continue
        blocks[-1].lines.append(line)
        if re.match(BRANCH, line):
            blocks.append(Block(label=""))
    labels = {block.label: index for index, block in enumerate(blocks) if block.label}
    for index, block in enumerate(blocks):
        last = block.lines[-1] if block.lines else ""
        target = re.search(r"(\.LBB\w+)$", last) if re.match(BRANCH, last) else None
        if target:
            block.next.append(labels[target[1]])
        if not re.match(r"(b|ret)(\t|$)", last) and index + 1 < len(blocks):
            block.next.append(index + 1)
    return blocks


def natural_loops(blocks: Sequence[Block]) -> dict[int, set[int]]:
    """Blocks of each loop by its header."""
    before: list[set[int]] = [set() for _ in blocks]
    for index in reachable(blocks, 0):
        for target in blocks[index].next:
            before[target].add(index)
    dominators = [set(range(len(blocks))) for _ in blocks]
    dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for index in range(1, len(blocks)):
            if not before[index]:
                continue
            found = set.intersection(*(dominators[other] for other in before[index]))
            if found | {index} != dominators[index]:
                dominators[index] = found | {index}
                changed = True
    loops: dict[int, set[int]] = {}
    for index in reachable(blocks, 0):
        for header in blocks[index].next:
            if header in dominators[index]:
                loop = loops.setdefault(header, {header})
                waiting = [index]
                while waiting:
                    member = waiting.pop()
                    if member not in loop:
                        loop.add(member)
                        waiting += before[member]
    return loops


def innermost(loops: dict[int, set[int]], index: int) -> int:
    """Header of the smallest loop with a block, -1 for none."""
    return min((header for header, loop in loops.items() if index in loop), key=lambda h: len(loops[h]), default=-1)


def branch_chances(blocks: Sequence[Block], loops: dict[int, set[int]], index: int, family: str) -> list[float]:
    """The share of passes after which each of ``blocks[index].next`` follows."""
    block = blocks[index]
    if len(block.next) < 2:
        return [1.0] * len(block.next)
    header = innermost(loops, index)
    stays = [header >= 0 and target in loops[header] for target in block.next]
    if header >= 0 and not all(stays):
        leaves = 1 / loop_length(blocks, loops, header, index)
        return [1 - leaves if stay else leaves for stay in stays]
    working = [any(blocks[after].macs(family) for after in reachable(blocks, target)) for target in block.next]
    if all(working) or not any(working):
        return [0.5, 0.5]
    return [float(works) for works in working]


def reachable(blocks: Sequence[Block], start: int) -> set[int]:
    """Blocks that may run from `start` on."""
    seen: set[int] = set()
    waiting = [start]
    while waiting:
        index = waiting.pop()
        if index not in seen:
            seen.add(index)
            waiting += blocks[index].next
    return seen


def loop_length(blocks: Sequence[Block], loops: dict[int, set[int]], header: int, exiting: int) -> int:
    """Passes of the branch that ends a loop, from the counter that it compares.

    Raises:
        ModelError: start, step and end of the counter are not constants.
    """
    own = [index for index in sorted(loops[header]) if innermost(loops, index) == header]
    # In the order of execution: from the header on, then what was laid out before it.
    order = [index for index in own if index >= header] + [index for index in own if index < header]
    body = [line for index in order for line in blocks[index].lines]
    until = [line for index in order[: order.index(exiting) + 1] for line in blocks[index].lines]
    before = [line for block in blocks[: min(loops[header])] for line in block.lines]
    branch = until[-1]
    if branch.startswith("tbnz"):
        return 2  # a bit that is flipped: LLVM's form of a loop that runs twice
    setter = branch
    if branch.startswith("b."):
        setter = next((line for line in reversed(until) if re.match(SETTER, line)), "")
    compared = re.match(r"(cmp|tbz)\t[wx](\d+), #(\d+)(, lsl #12)?", setter)
    compared = compared or re.match(r"(subs|adds|cbn?z)\t[wx](\d+)()()", setter)
    tasks = task_count(before)
    registers = re.match(r"cmp\t[wx](\d+), [wx](\d+)$", setter)
    if compared:
        register, limit = compared[2], int(compared[3] or 0) << (12 if compared[4] else 0)
        if compared[1] == "tbz":
            limit = 1 << limit
    elif registers and (found := constant(before, registers[2])) is not None:
        register, limit = registers[1], found
    elif registers and tasks:
        return tasks
    else:
        raise ModelError(f"a loop ends at {setter!r}, expected a counter and a constant")
    steps = [
        (int(match[3]) * (1 if match[1].startswith("add") else -1), match[2], line)
        for line in body
        if (match := re.match(rf"(adds?|subs?)\t[wx]{register}, [wx](\d+), #(\d+)$", line))
    ]
    if len(steps) == 1:
        step, counter, line = steps[0]
        moved = counter == register or any(re.match(rf"mov\t[wx]{counter}, [wx]{register}$", text) for text in body)
        start = constant(before, counter)
        if moved and start is not None:
            return (limit - start) // step + (line not in until)
    raise ModelError(f"a loop counts {setter!r}, expected one step and a start that are constants")


def constant(lines: Sequence[str], register: str) -> int | None:
    """What a register holds behind `lines`, as far as they tell: a constant, or zero after a loop that ended there."""
    high = 0
    for line in reversed(lines):
        match = re.match(rf"(\w+)\t[wx]{register}, (.*)$", line)
        if not match or match[1] in ("cmp", "cbz", "cbnz", "tbz", "tbnz", "str", "stp"):
            continue
        part = re.match(r"#(\d+), lsl #(\d+)$", match[2])
        if match[1] == "movk" and part:
            high += int(part[1]) << int(part[2])
            continue
        value = re.match(r"#(-?\d+)$|[wx]zr$", match[2])
        if match[1] == "mov" and value:
            return high + int(value[1] or 0)
        return 0 if match[1] in ("adds", "subs") else None
    return None


def task_count(lines: Sequence[str]) -> int:
    """Tasks that TVM shares among threads: a thread's first division is ``(tasks - 1 + threads) / threads``, else 0."""
    division = next((index for index, line in enumerate(lines) if line.startswith("sdiv")), 0)
    for line in reversed(lines[:division]):
        added = re.match(r"add\tw\d+, w\d+, (?:#(\d+)(, lsl #12)?|w(\d+))$", line)
        if added and added[1]:
            return (int(added[1]) << (12 if added[2] else 0)) + 1
        if added and (found := constant(lines[:division], added[3])) is not None:
            return found + 1
    return 0
