"""When tuning stops: the budget is spent, somebody interrupts, or it cannot go on."""

from __future__ import annotations

import threading
import time

from lqcompile.errors import LQCompileError
from lqcompile.tuning.budget import Budget

FINAL_S = 2.0
"""Kept of a budget of time for the comparison of the finalists, for each task."""

FINAL_PART = 0.25
"""At most this part of it."""


class Control:
    """Shared by all threads of a tuning run.

    Args:
        budget: to keep.
    """

    def __init__(self, budget: Budget) -> None:
        self.interrupted = False
        self.failure: LQCompileError | None = None
        self._left = budget.trials
        self._start = time.monotonic()
        self._search_s = budget.seconds
        self._lock = threading.Lock()

    def reserve(self, tasks: int) -> None:
        """Keep some of a budget of time for the comparison of the finalists of so many tasks."""
        if self._search_s is not None:
            self._search_s -= min(FINAL_S * tasks, FINAL_PART * self._search_s)

    @property
    def seconds(self) -> float:
        """Since tuning began."""
        return time.monotonic() - self._start

    @property
    def seconds_left(self) -> float | None:
        """For the search; None without a budget of time."""
        return None if self._search_s is None else max(0.0, self._search_s - self.seconds)

    @property
    def trials_left(self) -> int | None:
        """That may still begin; None without a budget of trials."""
        return self._left

    def stops(self) -> bool:
        """Whether nothing new may begin."""
        return self.interrupted or self.failure is not None or self.seconds_left == 0.0 or self._left == 0

    def claim(self, count: int) -> int:
        """How many of `count` trials may begin; they are taken off the budget."""
        with self._lock:
            if self._left is None:
                return count
            granted = min(count, self._left)
            self._left -= granted
            return granted

    def fail(self, error: LQCompileError) -> None:
        """Tuning cannot go on; the first reason counts."""
        with self._lock:
            self.failure = self.failure or error
