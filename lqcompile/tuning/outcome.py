"""What is told of tuning: where it stands, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lqcompile.records.key import Key
from lqcompile.records.tuned import Tuned
from lqcompile.tuning.curve import Curve


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where tuning stands.

    Args:
        doing: in words.
        layers: distinct contractions.
        trials: measured in this run.
        earlier: found in the working folder.
        failed: of both.
        best_us: least time of all layers so far, in microseconds; None until each has been measured.
        gain: their time at the start over that.
        seconds: since tuning began.
        seconds_left: of the search, where the budget is a time.
        trials_left: where it is a number of trials.
        sites: what measures now.
    """

    doing: str
    layers: int
    trials: int
    earlier: int
    failed: int
    best_us: float | None
    gain: float | None
    seconds: float
    seconds_left: float | None
    trials_left: int | None
    sites: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TuneResult:
    """What came of it.

    Args:
        key: where the records hold.
        layers: names of the layers of each record; a budget may be too small for all contractions.
        tuned: records, in the same order.
        trials: measured in this run.
        earlier: found in the working folder.
        failures: how often trials failed in this run, by the message.
        curve: the trials so far and the gain after each of them, as the finalists' comparison knows it (`gain_curve`).
        seconds: wall time.
        interrupted: by Ctrl-C.
    """

    key: Key
    layers: tuple[tuple[str, ...], ...]
    tuned: tuple[Tuned, ...]
    trials: int
    earlier: int
    failures: dict[str, int]
    curve: Curve
    seconds: float
    interrupted: bool

    def to_json(self) -> dict[str, Any]:
        """Stable keys."""
        rows = [
            {
                "layers": list(names),
                "instance": entry.instance,
                "untuned": {"kernel": entry.untuned.kernel, "tile": entry.untuned.tile, "us": entry.untuned.us},
                "best": {"kernel": entry.best.kernel, "tile": entry.best.tile, "us": entry.best.us},
                "gain": entry.gain,
                "trials": entry.trials,
                "failed": entry.failed,
            }
            for names, entry in zip(self.layers, self.tuned, strict=True)
        ]
        return {
            "key": self.key.to_json(),
            "contractions": rows,
            "trials": self.trials,
            "earlier": self.earlier,
            "failures": self.failures,
            "curve": [list(point) for point in self.curve],
            "seconds": round(self.seconds, 1),
            "interrupted": self.interrupted,
        }
