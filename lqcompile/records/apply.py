"""Which layers of a network have a record, and which records are left out and why."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from lqcompile.errors import TuningError
from lqcompile.graph.plan import Contraction, Plan
from lqcompile.lowering.choose import Candidate, Choice, serving
from lqcompile.records.instance import canonical, contraction_instances
from lqcompile.records.key import Key, key_here
from lqcompile.records.tuned import Timed, Tuned, read_tuned
from lqcompile.schedules.problem import Tile
from lqcompile.target import Target


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What records say about a network on one target.

    Args:
        choices: kernel by region name, for the layers that have a record.
        refused: layers whose records do not hold here, by the reason in words.
    """

    choices: dict[str, Choice]
    refused: dict[str, list[str]]

    def to_json(self) -> dict[str, Any]:
        """Stable keys."""
        return {"used": list(self.choices), "refused": self.refused}


def shipped_records(target: Target) -> list[Tuned]:
    """The tuned kernels that come with lqcompile for a target without variants."""
    package = importlib.import_module("lqcompile.schedules")
    path = Path(str(package.__file__)).parent / "tuned" / f"{target.name.replace('-', '_')}.json"
    return read_tuned(path) if path.exists() else []


def apply_records(plan: Plan, target: Target, entries: Sequence[Tuned], cpu_model: str | None = None) -> Applied:
    """Looks each contraction up.

    Args:
        plan: of the network.
        target: without variants.
        entries: tuned kernels; of several for one contraction the first that holds counts.
        cpu_model: processor that the network is for, as `lqcompile.cpu.cpu_model` gives it; None for this machine.
    """
    known: dict[str, list[Tuned]] = {}
    for entry in entries:
        if entry.key.target == target.name:
            known.setdefault(canonical(entry.instance), []).append(entry)
    choices: dict[str, Choice] = {}
    refused: dict[str, list[str]] = {}
    if not known:
        return Applied(choices=choices, refused=refused)
    key = key_here(target)
    for name, instance in contraction_instances(plan).items():
        reasons = []
        for entry in known.get(canonical(instance), []):
            reason = _obstacle(entry.key, key, cpu_model)
            if reason is None:
                choices[name] = make_choice(entry, target)
                break
            reasons.append(reason)
        else:
            for reason in dict.fromkeys(reasons):
                refused.setdefault(reason, []).append(name)
    return Applied(choices=_served(plan, target, choices), refused=refused)


def _obstacle(made: Key, here: Key, cpu_model: str | None) -> str | None:
    if cpu_model is None:
        return made.difference(here)
    # Its features are those that the record names: a machine that is not here cannot be asked.
    return made.difference(replace(here, cpu=cpu_model, features=made.features))


def _served(plan: Plan, target: Target, choices: dict[str, Choice]) -> dict[str, Choice]:
    """The choices, none of a kernel that does not compute its layer.

    Raises:
        TuningError: a record names one: it was not written by this version of the kernels.
    """
    for region in plan.regions:
        if region.name in choices and isinstance(region.operation, Contraction):
            value = plan.values[region.inputs[0]]
            families = serving(region.operation, value.quantizer if value.holds_codes else None, target.name)
            if choices[region.name].family not in families:
                raise TuningError(
                    f"records: found kernel family {choices[region.name].family!r} for node {region.name!r}, expected "
                    f"{' or '.join(families)}; the file was changed by hand, tune again"
                )
    return choices


def make_choice(entry: Tuned, target: Target) -> Choice:
    """The kernel of a record, with the reason in words."""
    best, untuned = (
        Candidate(family=timed.kernel, tile=read_tile(timed, target)) for timed in (entry.best, entry.untuned)
    )
    if best == untuned:
        return Choice(
            family=best.family,
            tile=best.tile,
            reason=f"record: {entry.best.us:.3g} us, the cost table's; none of {entry.trials} was clearly faster",
            measured=((best, entry.best.us),),
        )
    return Choice(
        family=best.family,
        tile=best.tile,
        reason=f"record: {entry.best.us:.3g} us, {entry.gain:.2f} x the cost table's {untuned.family}",
        measured=((best, entry.best.us), (untuned, entry.untuned.us)),
    )


def read_tile(timed: Timed, target: Target) -> Tile | None:
    """The register tile of a record; None for what the schedule's model picks.

    Raises:
        TuningError: no kind of tile of the target has these fields.
    """
    if not timed.tile:
        return None
    importlib.import_module(f"lqcompile.schedules.{target.schedule}")
    for kind in (Tile, *Tile.__subclasses__()):
        needed = {field.name for field in fields(kind) if field.default is MISSING}
        if needed <= set(timed.tile) <= {field.name for field in fields(kind)}:
            return kind(**timed.tile)
    raise TuningError(
        f"records: found a tile of {', '.join(timed.tile)}, expected fields of a tile of target {target.name}; the "
        "file was changed by hand, tune again"
    )


def write_tile(tile: Tile | None) -> dict[str, Any]:
    """The fields of a tile, as a record holds them."""
    return asdict(tile) if tile is not None else {}
