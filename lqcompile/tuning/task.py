"""What is tuned: the distinct contractions of a network, each with its design spaces and what checks its kernels."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lqcompile.errors import TuningError
from lqcompile.graph.plan import Plan, Region
from lqcompile.lowering.choose import Candidate, choose, serving
from lqcompile.lowering.layers import Layer, layer_space, layer_tiles
from lqcompile.lowering.lower import contraction_layers
from lqcompile.records.instance import Instance, contraction_instances, digest
from lqcompile.records.key import Key
from lqcompile.schedules.space import Space
from lqcompile.target import Target
from lqcompile.trials import Values, expected_integers, sample_values, with_family

NEAR = 1.5
"""Families whose estimated time is at most so many times that of the cost table's choice are tried before its other
tiles."""

NEIGHBOURS = 8
"""Points around the cost table's choice that are tried first."""

SOURCE = "source"
"""Start of the keys of the tensors that the kernels of a task read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One distinct contraction.

    Args:
        name: of its instance.
        layers: names of the regions that are this contraction.
        plan: of that region alone.
        layer: it, lowered as the cost table chooses.
        target: without variants.
        key: where records of it hold.
        instance: what records of it are about.
        spaces: design space by kernel family.
        guesses: candidates to begin with; the first is what the cost table and the schedule's model pick.
        values: random inputs.
        expected: integers that every exact kernel must give.
    """

    name: str
    layers: tuple[str, ...]
    plan: Plan
    layer: Layer
    target: Target
    key: Key
    instance: Instance
    spaces: dict[str, Space]
    guesses: tuple[Candidate, ...]
    values: Values
    expected: npt.NDArray[Any] | None

    def save(self, path: Path) -> None:
        """Write the task for the processes that compile its kernels."""
        path.write_bytes(pickle.dumps(self))


def load_task(path: str) -> Task:
    """A task that `Task.save` wrote, in a folder of this program's own."""
    task: Task = pickle.loads(Path(path).read_bytes())  # noqa: S301
    return task


def make_tasks(plan: Plan, target: Target, key: Key, progress: Callable[[str, float], None]) -> list[Task]:
    """The distinct contractions of a network for which there is a choice.

    Args:
        plan: of the network.
        target: without variants.
        key: where records of them hold.
        progress: called with what is being done and the share that is done.

    Raises:
        TuningError: there is none, or the target has no design spaces.
    """
    if not hasattr(importlib.import_module(f"lqcompile.schedules.{target.schedule}"), "space"):
        raise TuningError(
            f"target {target.name!r}: found schedules without design spaces, expected some to search; build without "
            "tuning"
        )
    progress("lowering the network", 0.0)
    layers = contraction_layers(plan, target)
    groups: dict[str, list[str]] = {}
    instances = contraction_instances(plan)
    for name in layers:
        groups.setdefault(digest(instances[name]), []).append(name)
    tasks = []
    for index, (name, names) in enumerate(groups.items()):
        progress(f"computing the reference of {names[0]}", index / len(groups))
        task = _make_task(plan, layers[names[0]], target, key, name, tuple(names), instances[names[0]])
        if sum(space.size for space in task.spaces.values()) > 1:
            tasks.append(task)
    if not tasks:
        raise TuningError(
            f"target {target.name!r}: found no layer with a choice of kernels, expected at least one; build without "
            "tuning"
        )
    return tasks


def _make_task(
    plan: Plan, layer: Layer, target: Target, key: Key, name: str, names: tuple[str, ...], instance: Instance
) -> Task:
    schedule = importlib.import_module(f"lqcompile.schedules.{target.schedule}")
    alone = _alone(plan, layer.region)
    spaces: dict[str, Space] = {}
    halved: dict[str, list[Candidate]] = {}
    families = serving(layer.operation, layer.quantizer, target.name)
    for family in sorted(families, key=lambda family: family != layer.family):
        variant = with_family(plan, layer, family, SOURCE)
        space = spaces[family] = layer_space(variant, target, schedule)
        tiles = layer_tiles(variant, target, schedule)
        halved[family] = [Candidate(family=family, tile=tile) for tile in tiles if space.place(tile) is not None]
    estimates = dict(choose(layer.operation, layer.quantizer, target.name).estimates)
    guesses = _guesses(layer.family, spaces, estimates, halved)
    values = sample_values(plan, [layer.region])
    return Task(
        name=name,
        layers=names,
        plan=alone,
        layer=replace(layer, region=alone.regions[0]),
        target=target,
        key=key,
        instance=instance,
        spaces=spaces,
        guesses=guesses,
        values=values,
        expected=expected_integers(plan, layer.region, values),
    )


def _guesses(
    chosen: str,
    spaces: Mapping[str, Space],
    estimates: Mapping[str, float],
    halved: Mapping[str, Sequence[Candidate]],
) -> tuple[Candidate, ...]:
    """What to measure first, the most promising before the others.

    Args:
        chosen: family that the cost table picks.
        spaces: design space by family.
        estimates: time by family, as a multiple of the least; of those that the table compares.
        halved: by family what `build --select measure` would try.
    """
    defaults = {family: Candidate(family=family, tile=space.tiles[0]) for family, space in spaces.items()}
    near = [defaults[family] for family in spaces if family != chosen and estimates.get(family, NEAR) <= NEAR]
    around = [Candidate(family=chosen, tile=tile) for tile in spaces[chosen].neighbours()[:NEIGHBOURS]]
    rest = [*halved[chosen], *defaults.values(), *(item for group in halved.values() for item in group)]
    return tuple(dict.fromkeys([defaults[chosen], *near, *around, *rest]))


def _alone(plan: Plan, region: Region) -> Plan:
    """A plan of one region, which is small to send to other processes."""
    names = {*region.inputs, *region.residuals, *(output.value.name for output in region.outputs)}
    return Plan(
        inputs=(),
        outputs=(),
        regions=(region,),
        values={name: plan.values[name] for name in names if name in plan.values},
    )
