"""The part of a build that is NVIDIA's: programs to launches, and their kernels to device code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lqcompile.cuda.launches import Launches, make_launches
from lqcompile.cuda.nvrtc import compile_cuda
from lqcompile.cuda.source import cuda_source
from lqcompile.lowering.program import Program, to_relax
from lqcompile.target import Target


def lower_program(program: Program) -> tuple[Any, Launches]:
    """The Relax form of a program and its launches."""
    return to_relax(program)[0], make_launches(program)


def generate(launches: Launches, target: Target, dump: Callable[[str, Callable[[], str]], None]) -> bytes:
    """The device code of one variant: a cubin or PTX.

    Args:
        launches: with the kernels.
        target: without variants.
        dump: called with a file's ending and what gives its text, for ``--dump-ir``.

    Raises:
        BuildError: there is no compiler, or it refuses the kernels.
    """
    source = cuda_source(launches.module, target)
    dump("cu", lambda: source)
    return compile_cuda(source, str(target.llvm["arch"])).data
