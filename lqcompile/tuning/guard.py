"""The network as a whole: its records stay only if it runs faster with them than without, beyond the uncertainty.

Kernels are compared one by one, with warm caches. In a network they meet the caches that other layers leave, and a
kernel of another family may make the layer before it write another format.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lqcompile.build import build
from lqcompile.inputs import random_inputs
from lqcompile.records.instance import canonical
from lqcompile.records.tuned import FILE_NAME, read_tuned, write_tuned
from lqcompile.runtime import load, using_threads
from lqcompile.target import Target
from lqcompile.timing import Stopwatch, spread
from lqcompile.tuning.outcome import TuneResult

ROUNDS = 31

SEED = 0
"""Of the input."""

Compare = Callable[[Sequence[Path], int], list[list[float]]]
"""Seconds of one run of each artifact on so many samples, interleaved: [artifacts][rounds]."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What records do to the network as a whole.

    Args:
        gain: median over the rounds of its time without them over that with them.
        uncertainty: half of the 95 % interval of the median, as a part of it.
        kept: whether they stay.
    """

    gain: float
    uncertainty: float
    kept: bool

    def to_json(self) -> dict[str, Any]:
        """Stable keys."""
        return {"gain": self.gain, "uncertainty": self.uncertainty, "kept": self.kept}


def compare_here(artifacts: Sequence[Path], samples: int) -> list[list[float]]:
    """Seconds of one run of each artifact, interleaved: on one thread of this machine, or on its GPU."""
    models = [load(path) for path in artifacts]
    feeds = random_inputs(models[0].inputs, samples, SEED)
    with using_threads(1):
        stopwatch = Stopwatch({str(index): functools.partial(model.run, feeds) for index, model in enumerate(models)})
        rounds = [stopwatch.round() for _ in range(ROUNDS)]
    return [[entry[str(index)] for entry in rounds] for index in range(len(models))]


def guard(
    result: TuneResult, model: Path, target: Target, work_dir: Path, compare: Compare = compare_here
) -> tuple[TuneResult, Verdict | None]:
    """Drops the records of a tuning if the network is not faster with them by more than the uncertainty.

    Args:
        result: of the tuning.
        model: the network's file.
        target: without variants, one that this machine can run.
        work_dir: folder of the tuning, whose records are changed.
        compare: what times artifacts.

    Returns:
        The result, without gains where they were dropped, and the verdict; None where no kernel is another one.
    """
    if all(entry.best == entry.untuned for entry in result.tuned):
        return result, None
    batch = target.samples if target.on_gpu else None
    with tempfile.TemporaryDirectory(prefix="lqcompile-guard-") as folder:
        paths = [Path(folder) / name for name in ("untuned.tar", "tuned.tar")]
        for path, records in zip(paths, ([], [work_dir]), strict=True):
            build(model, target=target.name, output=path, records=records, cpu_model=result.key.cpu, batch=batch)
        without, having = compare(paths, target.samples)
    found = spread([slow / fast for slow, fast in zip(without, having, strict=True)])
    gain = found.median_ms / 1e3
    verdict = Verdict(gain=gain, uncertainty=found.uncertainty, kept=gain * (1.0 - found.uncertainty) > 1.0)
    if verdict.kept:
        return result, verdict
    dropped = [entry for entry in result.tuned if entry.best != entry.untuned]
    places = {(entry.key, canonical(entry.instance)) for entry in dropped}
    left = [entry for entry in read_tuned(work_dir) if (entry.key, canonical(entry.instance)) not in places]
    write_tuned(work_dir / FILE_NAME, left)
    tuned = tuple(replace(entry, best=entry.untuned, gain=1.0) for entry in result.tuned)
    return replace(result, tuned=tuned), verdict
