"""Plans compiled for a target and loaded, without a file between: what tests of kernels start from."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiles
from emulated_pc import MENDED, PROCESSORS, EmulatedPC, pc_asked, skip_unless_made, skip_unless_tiles
from emulation import MACHINES, Emulated
from equality import check_equal  # noqa: F401 - where tests of kernels look for it
from tvm import runtime

from lqcompile import cpu
from lqcompile.build import _variant
from lqcompile.codegen import compile_driver, link
from lqcompile.graph.plan import Plan
from lqcompile.lowering.choose import Choice
from lqcompile.lowering.driver import Driver, lower_program
from lqcompile.lowering.lower import lower
from lqcompile.lowering.program import Program
from lqcompile.runtime import CompiledModel, aligned_copy
from lqcompile.target import Target, expand, find

X86 = [target.name for target in expand(find("x86"))]
"""Targets that x86 stands for, from the least to the most demanding."""

ARM = {
    "arm-neon": "cortex-a72",
    "raspberry-pi-3": "cortex-a53",
    "arm-dotprod": "neoverse-n1",
    "arm-i8mm": "max",
    "armv7": "cortex-a7",
}
"""Targets whose kernels differ, and the CPU of qemu that runs them where this machine does not."""

AMX = "x86-amx"
"""The target whose tile instructions are run in software where the processor has none."""

KERNELS = [*X86, *ARM]
"""Targets that the kernels are tested on."""


def missing(target: Target) -> list[str]:
    """Features of `target` that this machine lacks."""
    if cpu.machine() != target.machine:
        return [target.machine]
    return sorted(cpu.normalise(target.features, target.machine) - cpu.cpu_features())


def unavailable(target: Target) -> list[str]:
    """What this machine lacks to run `target`, be it under an emulator."""
    if target.name in ARM and cpu.machine() != target.machine:
        emulator = MACHINES[target.machine].emulator
        return [] if shutil.which(emulator) else [f"{emulator} (on Debian: apt install qemu-user-static)"]
    if on_emulated_pc(target):
        return []
    if target.name == AMX:
        return missing(find("x86-avx2"))
    return missing(target)


def skip_unless_runnable(target: Target) -> None:
    """Skips the test where nothing runs code for `target`."""
    if lacks := unavailable(target):
        pytest.skip(f"this machine lacks {', '.join(lacks)}, which {target.name} needs")


def skip_unless_emulated(target: Target) -> None:
    """Skips the test where there is no emulated PC for `target`."""
    (skip_unless_tiles if target.name == AMX else skip_unless_made)()


def on_emulated_pc(target: Target) -> bool:
    """Whether the emulated PC runs `target`: where that was asked for, and this machine cannot.

    AMX it runs where 'make pc-amx' mended its tile products.
    """
    able = target.name in PROCESSORS and (target.name != AMX or MENDED.exists())
    return pc_asked() and able and bool(missing(target))


@dataclass(frozen=True, kw_only=True, eq=False)
class Compiled:
    """A plan and what became of it."""

    plan: Plan
    target: Target
    program: Program
    driver: Driver
    executable: Any

    def assembly(self) -> str:
        """The assembly of the library."""
        text: str = self.executable.mod.inspect_source("asm")
        return text

    def load(self, seed: int = 0) -> CompiledModel:
        """The loaded network, see `model`; one for ARM is emulated elsewhere."""
        if self.target.name in ARM and cpu.machine() != self.target.machine:
            return self.model(Emulated(self.executable, self.target.machine, ARM[self.target.name]), seed)
        executable = self.executable
        if on_emulated_pc(self.target):
            return self.model(EmulatedPC(executable, PROCESSORS[self.target.name]), seed)
        if self.target.name == AMX and missing(self.target):
            tiles.install()
            executable = compile_driver(self.driver, tiles.for_avx2(self.target))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.so"
            path.write_bytes(link(executable, self.target))
            return self.model(runtime.load_module(str(path)), seed)

    def emulated(self, processor: str) -> CompiledModel:
        """The network on the emulated processor of a target."""
        return self.model(EmulatedPC(self.executable, PROCESSORS[processor]))

    def model(self, library: Any, seed: int = 0) -> CompiledModel:
        """The network of a library, with rubbish in its arena: a kernel must not rely on what was there."""
        variant = _variant(self.plan, self.program, self.driver, self.target, "", "")
        ports = {
            "inputs": [{"name": v.name, "shape": list(v.shape), "dtype": "float32"} for v in self.plan.inputs],
            "outputs": [{"name": n, "shape": list(s), "dtype": "float32"} for n, _, s in self.plan.outputs],
        }
        model = CompiledModel(ports, variant, library, aligned_copy(self.driver.parameters))
        model._arena[:] = np.random.default_rng(seed).integers(0, 256, model._arena.size)
        return model


def compile_plan(
    plan: Plan,
    target: Target,
    families: Mapping[str, str] | None = None,
    choices: Mapping[str, Choice] | None = None,
) -> Compiled:
    """Compiles a plan, with the kernel family of some regions given, or family and tile."""
    program = lower(plan, target, families=families, choices=choices)
    _, driver = lower_program(program)
    return Compiled(plan=plan, target=target, program=program, driver=driver, executable=compile_driver(driver, target))
