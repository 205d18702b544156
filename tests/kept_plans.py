"""Plans compiled for a GPU and kept in files: checked where the GPU is, with neither a compiler nor TVM there."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from equality import check_equal

from lqcompile.cuda.driver import Gpu
from lqcompile.cuda.engine import Engine
from lqcompile.cuda.model import CudaModel
from lqcompile.graph.plan import Plan

COPIES = 100
"""Of a case's samples, for kernels that serve large batches."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptPlan:
    """A plan compiled for a target without variants.

    Args:
        plan: of the network.
        manifest: what of an artifact's a model takes.
        variant: of it.
        sizes: elements of each input, and of each output, of one sample.
        code: cubin or PTX.
        parameters: packed constants.
    """

    plan: Plan
    manifest: Mapping[str, Any]
    variant: Mapping[str, Any]
    sizes: tuple[list[int], list[int]]
    code: bytes
    parameters: bytes

    def load(self) -> CudaModel:
        """The network on the GPU, with rubbish in its arena: a kernel must not rely on what was there."""
        engine = Engine(self.variant, self.sizes, self.code, self.parameters, Gpu(), "plan")
        model = CudaModel(dict(self.manifest), dict(self.variant), engine, self.parameters)
        model._arena[:] = np.random.default_rng(0).integers(0, 256, model._arena.size)
        return model


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptCase:
    """A plan, samples for it, what float32 may differ, and how many copies of the samples make a large batch."""

    compiled: KeptPlan
    x: np.ndarray
    tolerance: float
    copies: int


def check_network(plan: Plan, model: CudaModel, x: np.ndarray, tolerance: float, copies: int = COPIES) -> None:
    """Holds a loaded network against the reference: one by one, many at a time, and with no kernels for few samples."""
    check_equal(plan, model, x, tolerance=tolerance)
    whole = model.run({"x": np.concatenate([x] * copies)})
    for output, array in model.run({"x": x}).items():
        np.testing.assert_array_equal(whole[output][-len(array) :], array, err_msg="a batch and its samples differ")
    without_fewer(model)
    for output, array in model.run({"x": x}).items():
        np.testing.assert_array_equal(whole[output][-len(array) :], array, err_msg="kernels for few and many differ")


def without_fewer(model: CudaModel) -> int:
    """Makes launches of few samples use the kernels for many; gives how many launches had one of their own."""
    found = [entry.pop("fewer") for entry in model.engine.launches["steps"] if "fewer" in entry]
    model.engine._release()
    return len(found)


def keep(case: KeptCase, path: Path) -> None:
    """Writes a case to a file."""
    path.write_bytes(pickle.dumps(case))


def check_kept(path: Path) -> None:
    """Checks a case of a file that `keep` wrote here or on another machine of one's own: it is code."""
    case = pickle.loads(path.read_bytes())  # noqa: S301 - see above
    check_network(case.compiled.plan, case.compiled.load(), case.x, case.tolerance, case.copies)
