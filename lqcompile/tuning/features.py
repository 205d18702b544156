"""What the cost model sees of a candidate: its decisions, and what follows from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule import TuneContext
from tvm.s_tir.meta_schedule.feature_extractor import PyFeatureExtractor
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

from lqcompile.lowering.choose import Candidate
from lqcompile.tuning.task import Task
from lqcompile.tuning.workload import read_candidate

PLANE_FAMILIES = ("popcount", "lut", "planes", "b1mma", "b1wgmma")
"""Those that multiply each plane of the weights with each of the codes."""


@derived_object
class Features(PyFeatureExtractor):  # type: ignore[misc]
    """One row of numbers for each candidate; tasks share their meaning, so that they teach one another.

    Args:
        tasks: all that are tuned together.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self._tasks = {task.name: task for task in tasks}
        tiles = [tile for task in tasks for space in task.spaces.values() for tile in space.tiles]
        self.families = sorted({family for task in tasks for family in task.spaces})
        self.fields = sorted({name for tile in tiles for name in asdict(tile)})

    def extract_from(self, context: TuneContext, candidates: Sequence[MeasureCandidate]) -> list[tvm.runtime.Tensor]:
        """float64[1, features] of each candidate."""
        task = self._tasks[str(context.task_name)]
        rows = [self.row(task, read_candidate(item.sch.mod, task.spaces)) for item in candidates]
        return [tvm.runtime.tensor(row[None]) for row in rows]

    def row(self, task: Task, candidate: Candidate) -> npt.NDArray[np.float64]:
        """Features of one candidate: float64[features]."""
        if candidate.tile is None:
            raise TypeError("a candidate of a design space has a tile")
        instance = task.instance
        channels, _, _ = instance["input"]
        outputs, height, width = instance["output"]
        kh, kw = instance["kernel"]
        weight_bits = instance["weights"]["bits"]
        code_bits = instance["codes"]["bits"] if instance["codes"] else 32
        planes = weight_bits if candidate.family in PLANE_FAMILIES else 1
        acts = code_bits if candidate.family in PLANE_FAMILIES else 1
        fields = asdict(candidate.tile)
        pixels, blocks = candidate.tile.pixels, candidate.tile.blocks
        taps = kh * kw * channels / instance["group"]
        values = [float(candidate.family == family) for family in self.families]
        values += [float(fields.get(name, -1)) for name in self.fields]
        values += [
            # Accumulators, operands for each of them, and outputs that the last tile of a row computes twice.
            planes * acts * pixels * blocks,
            (planes * blocks + acts * pixels) / (planes * acts * pixels * blocks),
            math.ceil(width / pixels) * pixels / width,
            # Weights that every tile reads, and steps of its loop.
            math.log2(taps * planes * blocks),
            math.log2(taps),
        ]
        values += [math.log2(size) for size in (channels, outputs, height, width)]
        values += [kh * kw, instance["strides"][0], weight_bits, code_bits, len(instance["outputs"])]
        return np.array(values, np.float64)
