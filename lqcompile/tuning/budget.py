"""How long to tune: for a time, or for a number of trials."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lqcompile.errors import InputError

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """One of them is None.

    Args:
        seconds: of the whole job, the comparison of the finalists included.
        trials: kernels to measure.
    """

    seconds: float | None = None
    trials: int | None = None


def parse_budget(text: str) -> Budget:
    """A budget as the command line takes it.

    Example:
        >>> parse_budget("20m"), parse_budget("trials=500")
        (Budget(seconds=1200.0, trials=None), Budget(seconds=None, trials=500))

    Raises:
        InputError: it is none, or nothing.
    """
    trials = re.fullmatch(r"trials=(\d+)", text)
    time = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if trials and int(trials[1]) > 0:
        return Budget(trials=int(trials[1]))
    if time and float(time[1]) > 0:
        return Budget(seconds=float(time[1]) * _UNITS[time[2]])
    raise InputError(f"budget: found '{text}', expected a time such as 20m, 90s or 2h, or trials=500")
