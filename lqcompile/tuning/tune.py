"""Tuning a network: MetaSchedule searches each distinct contraction, then the finalists are compared."""

from __future__ import annotations

import importlib.util
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tvm.s_tir.meta_schedule import tune_tasks
from tvm.s_tir.meta_schedule.cost_model import XGBModel
from tvm.s_tir.meta_schedule.measure_callback import UpdateCostModel
from tvm.s_tir.meta_schedule.space_generator import ScheduleFn

from lqcompile import cpu
from lqcompile.errors import TuningError
from lqcompile.graph.plan import Plan
from lqcompile.lowering.choose import Candidate
from lqcompile.records.apply import read_tile
from lqcompile.records.key import Key
from lqcompile.records.tuned import FILE_NAME, Tuned, merge, read_tuned, write_tuned
from lqcompile.target import Target
from lqcompile.tuning.budget import Budget
from lqcompile.tuning.control import Control
from lqcompile.tuning.curve import Winner, gain_curve
from lqcompile.tuning.database import Shared, open_database
from lqcompile.tuning.features import Features
from lqcompile.tuning.finals import ROUNDS, decide, finalists
from lqcompile.tuning.ledger import Ledger
from lqcompile.tuning.measuring import Builder, Runner, Workshop, failure_of
from lqcompile.tuning.outcome import Status, TuneResult
from lqcompile.tuning.processes import Executor, OneProcess
from lqcompile.tuning.strategy import GuidedSearch, Redecide, learn, make_context
from lqcompile.tuning.task import Task, make_tasks
from lqcompile.tuning.work import Compare
from lqcompile.tuning.workload import design_spaces, tvm_target

BATCH = 8
"""Candidates of one task that are compiled and measured before the cost model learns from them."""

WARM_UP = 16
"""Trials before the cost model is asked at all."""

EXTRA = ("cloudpickle", "psutil", "xgboost")
"""Modules of the extra [tune]."""


def check_extra() -> None:
    """Finds out whether the extra [tune] is installed.

    Raises:
        TuningError: it is not.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise TuningError(
            f"lqcompile tune: found no {' and no '.join(missing)}, expected the tuning extra; pip install "
            "'lqcompile[tune]'"
        )


def tune(
    plan: Plan,
    target: Target,
    key: Key,
    budget: Budget,
    work_dir: Path,
    *,
    watch: Callable[[Status], None],
    make_executor: Callable[[], Executor] | None = None,
) -> TuneResult:
    """Tunes a network; trials go to the database in `work_dir`, records to its ``tuned.json``.

    Args:
        plan: of the network.
        target: without variants, one that what measures can run.
        key: where the records hold.
        budget: of time or of trials.
        work_dir: folder of this tuning; one that holds trials already is gone on with.
        watch: called when something changed.
        make_executor: makes what runs candidates (`lqcompile.tuning.processes.Executor`); this machine by default.

    Raises:
        TuningError: the extra is missing, the folder cannot be used, there is nothing to tune, the disk is full, or
            all boards are gone. What was measured until then is kept.
    """
    check_extra()
    control = Control(budget)
    database = open_database(work_dir)
    earlier = read_tuned(work_dir) if (work_dir / FILE_NAME).exists() else []
    ledger: Ledger | None = None
    executor: Executor | None = None

    def tell(doing: str) -> None:
        watch(_status(doing, control, ledger, executor))

    tasks = make_tasks(plan, target, key, lambda doing, _share: tell(doing))
    control.reserve(len(tasks))
    ledger = Ledger(tasks, database, lambda: tell("searching"))
    with (
        tempfile.TemporaryDirectory(prefix="lqcompile-tune-") as folder,
        _interruptible(control),
    ):
        workshop = Workshop(ledger, control, Path(folder), cpu.logical_cores())
        executor = (make_executor or OneProcess)()
        try:
            _search(ledger, control, workshop, executor, work_dir)
            if control.failure is not None:
                raise control.failure
            tuned = _compare(ledger, workshop, executor, tell)
        finally:
            workshop.close()
            executor.close()
    write_tuned(work_dir / FILE_NAME, merge([earlier, tuned]))
    failures: Counter[str] = Counter()
    for entry in ledger.progress.values():
        failures.update(entry.failures)
    measured = [entry.task for entry in ledger.progress.values() if entry.seconds]
    winners = {task.name: _winner(task, record) for task, record in zip(measured, tuned, strict=True)}
    return TuneResult(
        key=key,
        layers=tuple(task.layers for task in measured),
        tuned=tuple(tuned),
        trials=ledger.trials,
        earlier=ledger.earlier,
        failures=dict(failures),
        curve=gain_curve(ledger.order, winners),
        seconds=control.seconds,
        interrupted=control.interrupted,
    )


def _search(ledger: Ledger, control: Control, workshop: Workshop, executor: Executor, work_dir: Path) -> None:
    """MetaSchedule: the gradient scheduler gives most trials to what takes most of the time."""
    entries = list(ledger.progress.values())
    model = XGBModel(
        extractor=Features([entry.task for entry in entries]), num_warmup_samples=WARM_UP, num_tuning_cores=1
    )
    contexts = []
    for number, entry in enumerate(entries):
        space = ScheduleFn(
            design_spaces(entry.task.spaces), sch_rules=[], postprocs=[], mutator_probs={Redecide(number): 1.0}
        )
        search = GuidedSearch(entry.task, ledger, control)
        contexts.append(make_context(entry.task, entry.module, tvm_target(entry.task.target), space, search))
        learn(model, contexts[-1], entry)
    if control.stops():
        return
    tune_tasks(
        tasks=contexts,
        task_weights=[float(len(entry.task.layers)) for entry in entries],
        work_dir=str(work_dir),
        max_trials_global=2**30,
        num_trials_per_iter=BATCH,
        builder=Builder(workshop),
        runner=Runner(workshop, executor),
        database=Shared(ledger.database),
        cost_model=model,
        measure_callbacks=[UpdateCostModel()],
        task_scheduler="gradient",
    )


def _compare(ledger: Ledger, workshop: Workshop, executor: Executor, tell: Callable[[str], None]) -> list[Tuned]:
    """The comparison of the finalists, task by task; none of a task that nothing was measured of."""
    compiled = {}
    for name, entry in ledger.progress.items():
        if not entry.seconds:
            continue
        candidates = finalists(entry)
        compiled[name] = (candidates, workshop.compile(name, candidates))
    found = []
    for index, (name, (candidates, future)) in enumerate(compiled.items()):
        entry = ledger.progress[name]
        tell(f"comparing the finalists of {entry.task.layers[0]}, {index + 1} of {len(compiled)}")
        failure = failure_of(future)
        if failure is not None:
            raise TuningError(f"node {entry.task.layers[0]!r}: the finalists do not compile together: {failure}")
        work = Compare(task=str(workshop.folder / name), compiled=future.result(), rounds=ROUNDS)
        found.append(decide(entry, candidates, executor.submit(work).result()))
    return found


def _winner(task: Task, record: Tuned) -> Winner:
    """What the finalists' comparison says about all layers of a task."""
    best = Candidate(family=record.best.kernel, tile=read_tile(record.best, task.target))
    untuned_us = len(task.layers) * record.untuned.us
    return Winner(candidate=best, untuned_us=untuned_us, us=untuned_us / record.gain)


def _status(doing: str, control: Control, ledger: Ledger | None, executor: Executor | None) -> Status:
    entries = [] if ledger is None else list(ledger.progress.values())
    times = None if ledger is None else ledger.times()
    return Status(
        doing=doing,
        layers=len(entries),
        trials=0 if ledger is None else ledger.trials,
        earlier=0 if ledger is None else ledger.earlier,
        failed=sum(entry.failed for entry in entries),
        best_us=None if times is None else 1e6 * times[1],
        gain=None if times is None else times[0] / times[1],
        seconds=control.seconds,
        seconds_left=control.seconds_left,
        trials_left=control.trials_left,
        sites=() if executor is None else tuple(executor.names()),
    )


@contextmanager
def _interruptible(control: Control) -> Iterator[None]:
    """The first Ctrl-C ends the search in order; the second one ends the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        if control.interrupted:
            raise KeyboardInterrupt
        control.interrupted = True

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
