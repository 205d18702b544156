"""Cycles of instruction sequences by llvm-mca, LLVM's model of a core: a model, not a measurement."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

ITERATIONS = 200
"""Repeats of a sequence: enough that start and end weigh under 1 %."""

AARCH64 = ("-mtriple=aarch64-linux-gnu", "-mattr=+dotprod,+i8mm")
X86_64 = ("-mtriple=x86_64-linux-gnu",)
"""Options for an architecture."""


class ModelError(Exception):
    """llvm-mca is missing, or an assembly has a form that the model does not know."""


@dataclass(frozen=True, kw_only=True)
class Cycles:
    """Cycles of one pass through a sequence that repeats.

    Args:
        simulated: llvm-mca's pipeline, with latencies and dispatch.
        bound: the busiest execution unit alone; no order of the same instructions is faster.
    """

    simulated: float
    bound: float


def find() -> str:
    """The newest llvm-mca on the search path.

    Raises:
        ModelError: there is none.
    """
    versioned = (shutil.which(f"llvm-mca-{version}") for version in range(30, 14, -1))
    found = next((path for path in versioned if path), None) or shutil.which("llvm-mca")
    if not found:
        raise ModelError("llvm-mca: not found; install it, on Debian with: apt-get install llvm-22")
    return found


def version(tool: str) -> str:
    """The LLVM version of `tool`."""
    text = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"LLVM version (\S+)", text)
    return match[1] if match else "unknown"


def analyse(
    tool: str, core: str, sequences: Mapping[str, Sequence[str]], architecture: Sequence[str] = AARCH64
) -> dict[str, Cycles]:
    """Cycles per pass of each sequence of instructions (without labels) on `core`.

    Raises:
        ModelError: llvm-mca refuses an instruction.
    """
    lines = []
    for name, sequence in sequences.items():
        lines += [f"// LLVM-MCA-BEGIN {name}", *sequence, f"// LLVM-MCA-END {name}"]
    command = [tool, *architecture, f"-mcpu={core}", f"-iterations={ITERATIONS}"]
    command += ["-instruction-info=0", "-resource-pressure=0", "--json"]
    result = subprocess.run(command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
    if result.returncode:
        raise ModelError(f"llvm-mca for {core}: {result.stderr.strip().splitlines()[0]}")
    found = {}
    for region in json.loads(result.stdout)["CodeRegions"]:
        summary = region["SummaryView"]
        found[region["Name"]] = Cycles(
            simulated=summary["TotalCycles"] / summary["Iterations"], bound=summary["BlockRThroughput"]
        )
    return found
