"""The file of tuned kernels: for each contraction the fastest kernel, beside the one that the cost table picks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lqcompile.errors import TuningError
from lqcompile.files import write_atomically
from lqcompile.records.instance import Instance, canonical
from lqcompile.records.key import Key, read_key

FORMAT = "lqcompile tuned kernels"
VERSION = 2

FILE_NAME = "tuned.json"
"""Of the tuned kernels in a working folder of ``lqcompile tune``."""


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A kernel and its time.

    Args:
        kernel: family.
        tile: fields of its register tile by name; empty for what the schedule's model picks.
        us: median of one call, in microseconds.
    """

    kernel: str
    tile: dict[str, Any]
    us: float


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What tuning found for one contraction; all times are from one interleaved comparison.

    Args:
        key: where it holds.
        instance: the contraction (`lqcompile.records.instance`).
        best: the fastest kernel; `untuned` itself where nothing was clearly faster.
        untuned: what the cost table picks.
        gain: median over the rounds of the time of `untuned` over that of `best`.
        trials: kernels that were measured.
        failed: of them, those that did not compile, did not run or were not equal to the reference.
        finished: when, in UTC, as ISO 8601.
    """

    key: Key
    instance: Instance
    best: Timed
    untuned: Timed
    gain: float
    trials: int
    failed: int
    finished: str


def read_tuned(path: Path) -> list[Tuned]:
    """The tuned kernels in a file, or in a working folder of ``lqcompile tune``.

    Raises:
        TuningError: there is no such file, or it is damaged, of another program or of another version.
    """
    file = path / FILE_NAME if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        hint = "finish 'lqcompile tune' with that folder first" if path.is_dir() else "check the path"
        raise TuningError(f"records '{file}': found {found}, expected a file of tuned kernels; {hint}") from error
    except ValueError as error:
        raise TuningError(
            f"records '{file}': found a damaged file ({error}), expected JSON; make it anew with 'lqcompile records "
            "export'"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise TuningError(
            f"records '{file}': found JSON of another program, expected a file of 'lqcompile tune' or 'lqcompile "
            "records export'"
        )
    if content.get("version") != VERSION:
        raise TuningError(
            f"records '{file}': found version {content.get('version')}, expected {VERSION}; tune again with this "
            "lqcompile"
        )
    try:
        return [_entry(machine, layer, str(file)) for machine in content["machines"] for layer in machine["layers"]]
    except (KeyError, TypeError) as error:
        raise TuningError(
            f"records '{file}': found an entry without {error}, expected a whole one; make the file anew with "
            "'lqcompile records export'"
        ) from error


def write_tuned(path: Path, entries: Iterable[Tuned]) -> None:
    """Write tuned kernels, whole or not at all.

    Raises:
        BuildError: the file cannot be written.
    """
    machines: dict[Key, list[Tuned]] = {}
    for entry in entries:
        machines.setdefault(entry.key, []).append(entry)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "machines": [
            {"key": key.to_json(), "layers": [_layer(entry) for entry in group]} for key, group in machines.items()
        ],
    }
    write_atomically(path, (json.dumps(content, indent=1) + "\n").encode())


def merge(groups: Sequence[Iterable[Tuned]]) -> list[Tuned]:
    """All entries; of two for one contraction on one machine the one that was finished last."""
    found: dict[tuple[Key, str], Tuned] = {}
    for group in groups:
        for entry in group:
            place = (entry.key, canonical(entry.instance))
            if place not in found or found[place].finished <= entry.finished:
                found[place] = entry
    return list(found.values())


def _layer(entry: Tuned) -> dict[str, Any]:
    content = asdict(entry)
    del content["key"]
    return content


def _entry(machine: dict[str, Any], layer: dict[str, Any], source: str) -> Tuned:
    return Tuned(
        key=read_key(machine["key"], source),
        instance=layer["instance"],
        best=Timed(**layer["best"]),
        untuned=Timed(**layer["untuned"]),
        gain=float(layer["gain"]),
        trials=int(layer["trials"]),
        failed=int(layer["failed"]),
        finished=str(layer["finished"]),
    )
