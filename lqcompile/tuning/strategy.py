"""The search: good guesses first, then MetaSchedule's evolutionary search, until the budget is spent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule, Trace
from tvm.s_tir.meta_schedule import TuneContext, _ffi_api
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.cost_model import CostModel
from tvm.s_tir.meta_schedule.logging import get_logger, get_logging_func
from tvm.s_tir.meta_schedule.mutator import PyMutator
from tvm.s_tir.meta_schedule.runner import RunnerResult
from tvm.s_tir.meta_schedule.search_strategy import EvolutionarySearch, MeasureCandidate, PySearchStrategy

from lqcompile.tuning.control import Control
from lqcompile.tuning.ledger import Ledger, Progress
from lqcompile.tuning.task import Task
from lqcompile.tuning.transfer import promising_first
from lqcompile.tuning.workload import place, read_candidate

POPULATION = 48
"""Schedules of a generation: the spaces have tens to thousands of points, and each is replayed in Python."""

GENERATIONS = 3

RANDOM_PART = 0.2
"""Of each batch, against a cost model that is wrong about what it has not seen."""

FIRST_GUESSES = 4
"""Of each task before any other trial: the cost table's choice, and what is most likely to be faster."""

MOST_EMPTY = 4
"""Batches without anything new, after which a design space counts as exhausted."""


@derived_object
class Redecide(PyMutator):  # type: ignore[misc]
    """Takes another decision at one place, a neighbouring one as often as any."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._rng = np.random.default_rng(seed)

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        """There is nothing to prepare."""

    def apply(self, trace: Trace, _state: Any) -> Trace | None:
        """The trace with another decision; None where there is no choice."""
        places = [
            step for step in trace.insts if step.kind.name == "SampleCategorical" and len(list(step.attrs[0])) > 1
        ]
        if not places:
            return None
        step = places[int(self._rng.integers(len(places)))]
        count, old = len(list(step.attrs[0])), int(trace.get_decision(step))
        if self._rng.random() < 0.5:
            new = old + (1 if self._rng.random() < 0.5 else -1)
            new = min(max(new, 0), count - 1)
        else:
            new = int(self._rng.integers(count))
        return trace.with_decision(step, new, remove_postproc=True) if new != old else None

    def clone(self) -> Redecide:
        """Another one."""
        return Redecide(self._seed + 1)


@derived_object
class GuidedSearch(PySearchStrategy):  # type: ignore[misc]
    """Hands out a task's guesses first, in batches; what was measured before is never handed out.

    Args:
        task: to search for.
        ledger: that knows what was measured.
        control: that knows when to stop.
    """

    def __init__(self, task: Task, ledger: Ledger, control: Control) -> None:
        super().__init__()
        self._task, self._ledger, self._control = task, ledger, control
        self._guesses = list(task.guesses)
        self._batch = FIRST_GUESSES
        self._inner = EvolutionarySearch(
            population_size=POPULATION,
            init_measured_ratio=0.3,
            init_min_unmeasured=POPULATION // 4,
            genetic_num_iters=GENERATIONS,
            eps_greedy=RANDOM_PART,
        )

    def _initialize_with_tune_context(self, context: TuneContext) -> None:
        self._module = context.mod
        self._inner._initialize_with_tune_context(context)

    def pre_tuning(
        self,
        max_trials: int,
        num_trials_per_iter: int,
        design_spaces: Sequence[Schedule],
        database: Any = None,
        cost_model: Any = None,
    ) -> None:
        """Begin."""
        self._per_batch = num_trials_per_iter
        self._inner.pre_tuning(max_trials, num_trials_per_iter, design_spaces, database, cost_model)

    def post_tuning(self) -> None:
        """End."""
        self._inner.post_tuning()

    def generate_measure_candidates(self) -> list[MeasureCandidate] | None:
        """The next batch; None when the budget is spent or nothing new is found."""
        if self._control.stops():
            return None
        while self._guesses:
            self._guesses = promising_first(self._guesses, self._task, self._ledger)
            batch, self._guesses = self._guesses[: self._batch], self._guesses[self._batch :]
            self._batch = max(self._batch, self._per_batch)
            placed = [place(self._module, self._task.spaces, guess) for guess in batch]
            arguments = ArgInfo.from_entry_func(self._module)
            fresh = self._new([MeasureCandidate(guess, arguments) for guess in placed if guess is not None])
            if fresh:
                return fresh
        for _ in range(MOST_EMPTY):
            found = self._inner.generate_measure_candidates()
            if found is None:
                return None
            fresh = self._new(list(found))
            if fresh:
                return fresh
        return None

    def notify_runner_results(self, measure_candidates: Sequence[MeasureCandidate], results: Sequence[Any]) -> None:
        """Pass results on."""
        self._inner.notify_runner_results(measure_candidates, results)

    def clone(self) -> GuidedSearch:
        """A search that begins anew."""
        return GuidedSearch(self._task, self._ledger, self._control)

    def _new(self, found: Sequence[MeasureCandidate]) -> list[MeasureCandidate]:
        """What was not measured yet, as far as the budget goes."""
        name, spaces = self._task.name, self._task.spaces
        fresh = [item for item in found if not self._ledger.is_known(name, read_candidate(item.sch.mod, spaces))]
        granted = fresh[: self._control.claim(len(fresh))]
        for item in granted:
            self._ledger.announce(name, item)
        return granted


def learn(model: CostModel, context: TuneContext, entry: Progress) -> None:
    """Teaches the cost model what earlier runs measured."""
    measured, results = [], []
    for candidate, seconds in entry.seconds.items():
        schedule = place(entry.module, entry.task.spaces, candidate)
        if schedule is not None and seconds is not None:
            measured.append(MeasureCandidate(schedule, ArgInfo.from_entry_func(entry.module)))
            results.append(RunnerResult([seconds], None))
    if measured:
        model.update(context, measured, results)


def make_context(task: Task, module: tvm.IRModule, target: Any, space: Any, search: GuidedSearch) -> TuneContext:
    """A tuning context.

    `TuneContext`'s own constructor imports TVM's tensor intrinsics, of which these workloads use none: that takes a
    minute (TVM 0.27).
    """
    context = TuneContext.__new__(TuneContext)
    logger = get_logging_func(get_logger("lqcompile.tuning"))
    seed = 1 + int(task.name[:6], 16)
    context.__init_handle_by_constructor__(
        _ffi_api.TuneContext, module, target, space, search, task.name, 1, seed, logger
    )
    _ffi_api.TuneContextInitialize(context)
    return context
