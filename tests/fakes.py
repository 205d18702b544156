"""Compiled models that are the NumPy reference underneath, and some that get one thing wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import make_plan
from lqcompile.graph.plan import Plan, Region
from lqcompile.reference import execute, execute_region, graph_outputs

Arrays = dict[str, np.ndarray]
Damage = Callable[[str, Arrays], None]
"""Changes, in place, what a region with some name gives."""


class ReferenceModel:
    """A compiled model that equals the reference; `damage` spoils its layers, in `run` as well."""

    def __init__(self, path: Path, damage: Damage = lambda name, outputs: None) -> None:
        self.plan: Plan = make_plan(load_checked(path))
        self.plan_values = set(self.plan.values)
        self.damage = damage

    def region(self, name: str) -> Region:
        return next(region for region in self.plan.regions if region.name == name)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        values = dict(inputs)
        for region in self.plan.regions:
            values.update(self.run_region(region.name, values))
        assert execute(self.plan, inputs).keys() == values.keys()
        return graph_outputs(self.plan, values)

    def run_region(self, name: str, values: Mapping[str, np.ndarray]) -> Arrays:
        _, outputs = execute_region(self.plan, self.region(name), values)
        self.damage(name, outputs)
        return outputs

    def run_sums(self, name: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
        integers, _ = execute_region(self.plan, self.region(name), values)
        assert integers is not None
        return integers.astype(np.int32)


class OneWrongInteger(ReferenceModel):
    """One integer sum of one region is off by one."""

    def __init__(self, path: Path, region: str) -> None:
        super().__init__(path)
        self.wrong = region

    def run_sums(self, name: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
        integers = super().run_sums(name, values)
        if name == self.wrong:
            integers[0].flat[7] += 1
        return integers


class OneWrongOutput(ReferenceModel):
    """Every layer is right, but an output of the whole is the next float."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        outputs = super().run(inputs)
        first = next(iter(outputs.values()))
        first[0].flat[0] = np.nextafter(first[0].flat[0], np.float32(np.inf))
        return outputs
