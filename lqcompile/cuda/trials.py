"""Candidate kernels of contractions, compiled for a GPU."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lqcompile.cuda.build import generate
from lqcompile.cuda.kernels import GpuJob
from lqcompile.cuda.launches import LARGEST, make_launches
from lqcompile.lowering.program import Program
from lqcompile.target import Target


def make_job(
    program: Program,
    target: Target,
    contents: Mapping[int, npt.NDArray[np.uint8]],
    single: frozenset[int],
) -> GpuJob:
    """Compiles steps that do not depend on one another.

    Args:
        program: the steps; all that they read and write are its inputs and outputs.
        target: without variants; its samples run together where steps are timed, or as many as kernels can number.
        contents: bytes of each input, of one sample.
        single: steps that run on one sample alone.

    Raises:
        BuildError: there is no compiler of device code, or it refuses the kernels.
        UnsupportedError: a tensor is larger than kernels can number.
    """
    launches = make_launches(program)
    return GpuJob(
        library=generate(launches, target, lambda _ending, _text: None),
        ports=tuple((tensor.dtype, tensor.size) for tensor in (*program.inputs, *program.outputs)),
        contents=contents,
        arena_bytes=launches.arena_bytes,
        parameters=np.frombuffer(launches.parameters, np.uint8),
        steps=launches.steps,
        single=single,
        samples=min(target.samples, max(1, LARGEST // launches.largest)),
    )
