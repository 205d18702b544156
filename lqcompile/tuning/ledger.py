"""What is known of each task while tuning goes on: every trial is written down as soon as it is measured."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import tvm
from tvm.s_tir.meta_schedule.database import TuningRecord
from tvm.s_tir.meta_schedule.search_strategy import MeasureCandidate

from lqcompile.lowering.choose import Candidate
from lqcompile.tuning.database import FAILED_S, Database, is_valid
from lqcompile.tuning.task import Task
from lqcompile.tuning.workload import identity, make_workload, read_candidate, tvm_target


@dataclass(eq=False)
class Progress:
    """What is known of one task.

    Args:
        task: it.
        module: its workload.
        seconds: median time of every trial; None for one that failed.
        failures: how often trials failed, by the first line of the message.
    """

    task: Task
    module: tvm.IRModule
    seconds: dict[Candidate, float | None] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def start_s(self) -> float | None:
        """Time of what the cost table picks; None if it was not measured, or failed."""
        return self.seconds.get(self.task.guesses[0])

    @property
    def best_s(self) -> float | None:
        """Least time."""
        return min((value for value in self.seconds.values() if value is not None), default=None)

    @property
    def failed(self) -> int:
        """Trials that failed."""
        return sum(value is None for value in self.seconds.values())

    def fastest(self, count: int) -> list[Candidate]:
        """The fastest candidates, at most `count`."""
        timed = [(value, index, candidate) for index, (candidate, value) in enumerate(self.seconds.items()) if value]
        return [candidate for _, _, candidate in sorted(timed, key=lambda entry: entry[:2])[:count]]


class Ledger:
    """All tasks and their trials.

    Args:
        tasks: to tune.
        database: that trials are read from and written to.
        changed: called after each trial.
    """

    def __init__(self, tasks: Sequence[Task], database: Database, changed: Callable[[], None]) -> None:
        self.database = database
        self.trials = 0
        """Of this run."""
        self.earlier = 0
        """That were found in the database."""
        self.order: list[tuple[str, Candidate]] = []
        """Task and candidate of each trial of this run."""
        self._changed = changed
        self._lock = threading.RLock()
        self._schedules: dict[tuple[str, Candidate], MeasureCandidate] = {}
        self.progress = {
            task.name: Progress(task=task, module=make_workload(task.instance, task.key, task.spaces)) for task in tasks
        }
        self._read()

    def _read(self) -> None:
        """Takes in what earlier runs measured."""
        names = {identity(entry.module): name for name, entry in self.progress.items()}
        for record in self.database.get_all_tuning_records():
            name = names.get(identity(record.workload.mod))
            if name is None:
                continue
            entry = self.progress[name]
            candidate = read_candidate(record.as_measure_candidate().sch.mod, entry.task.spaces)
            seconds = min(float(value) for value in record.run_secs) if is_valid(record) else None
            if candidate not in entry.seconds:
                entry.seconds[candidate] = seconds
                self.earlier += 1
                if seconds is None:
                    entry.failures["failed in an earlier run"] += 1

    def times(self) -> tuple[float, float] | None:
        """Seconds of all layers as the cost table chooses, and their least; None before all of them have one."""
        start = best = 0.0
        for entry in self.progress.values():
            if entry.start_s is None or entry.best_s is None:
                return None
            start += len(entry.task.layers) * entry.start_s
            best += len(entry.task.layers) * entry.best_s
        return start, best

    def is_known(self, name: str, candidate: Candidate) -> bool:
        """Whether a candidate of a task has been measured."""
        with self._lock:
            return candidate in self.progress[name].seconds

    def announce(self, name: str, measured: MeasureCandidate) -> None:
        """Remember the schedule of a candidate that is about to be measured."""
        with self._lock:
            candidate = read_candidate(measured.sch.mod, self.progress[name].task.spaces)
            self._schedules[name, candidate] = measured

    def write(self, name: str, candidate: Candidate, seconds: float | None, failure: str = "") -> None:
        """Write a trial down.

        Args:
            name: of the task.
            candidate: of it, announced before.
            seconds: its median time, None if it failed.
            failure: why it failed.

        Raises:
            TuningError: the disk is full.
        """
        with self._lock:
            entry = self.progress[name]
            measured = self._schedules.pop((name, candidate))
            record = TuningRecord(
                measured.sch.trace,
                self.database.commit_workload(entry.module),
                [FAILED_S if seconds is None else seconds],
                tvm_target(entry.task.target),
                measured.args_info,
            )
            self.database.commit_tuning_record(record)
            entry.seconds[candidate] = seconds
            self.trials += 1
            if seconds is None:
                entry.failures[failure] += 1
            self.order.append((name, candidate))
        self._changed()
