"""The database of trials: what is written is whole, survives a kill, and is refused where it is damaged."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tunings import KEY, TARGET, tasks
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.database import TuningRecord

from lqcompile.errors import TuningError
from lqcompile.lowering.choose import Candidate
from lqcompile.tuning.database import FAILED_S, TRIALS, WORKLOADS, Database, add_records, is_valid, open_database
from lqcompile.tuning.task import Task
from lqcompile.tuning.workload import make_workload, place, read_candidate, tvm_target


def write(database: Database, task: Task, candidate: Candidate, seconds: float) -> None:
    """Add a trial."""
    module = make_workload(task.instance, KEY, task.spaces)
    schedule = place(module, task.spaces, candidate)
    assert schedule is not None
    workload = database.commit_workload(module)
    arguments = ArgInfo.from_entry_func(module)
    record = TuningRecord(schedule.trace, workload, [seconds], tvm_target(TARGET), arguments)
    database.commit_tuning_record(record)


def filled(folder: Path, trials: int = 4) -> Database:
    """A database with trials of two tasks, one of them failed."""
    database = open_database(folder)
    for number in range(trials):
        task = tasks()[number % 2]
        write(database, task, task.guesses[number // 2], FAILED_S if number == 1 else 1e-3 * (number + 1))
    return database


def test_trials_are_there_when_it_is_opened_again(tmp_path: Path) -> None:
    filled(tmp_path)
    records = open_database(tmp_path).get_all_tuning_records()
    assert [float(record.run_secs[0]) for record in records] == [1e-3, 3e-3, 4e-3, FAILED_S]
    assert [is_valid(record) for record in records] == [True, True, True, False]
    task = tasks()[0]
    best = read_candidate(records[0].as_measure_candidate().sch.mod, task.spaces)
    assert best == task.guesses[0]


@pytest.mark.parametrize("name", [TRIALS, WORKLOADS])
def test_a_line_that_was_cut_off_is_dropped(name: str, tmp_path: Path) -> None:
    filled(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole + b'[0, [["half a li')
    assert len(open_database(tmp_path)) == 4
    assert (tmp_path / name).read_bytes() == whole


def test_a_damaged_line_is_refused_and_left_alone(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / TRIALS
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = b"".join([lines[0], b"{nonsense\n", *lines[2:]])
    path.write_bytes(damaged)
    with pytest.raises(
        TuningError, match=r"^records '.*trials.json': found a damaged line 2, expected JSON; remove that"
    ):
        open_database(tmp_path)
    assert path.read_bytes() == damaged


def test_other_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / TRIALS).write_text(json.dumps([1, 2]) + "\n")
    with pytest.raises(TuningError, match=r"found lines that TVM's MetaSchedule cannot read, expected those of"):
        open_database(tmp_path)


def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        TuningError, match=r"^folder '.*file': found .*, expected one that can be written; choose another"
    ):
        open_database(tmp_path / "file")


def test_merging_adds_what_is_new(tmp_path: Path) -> None:
    all_of, some = filled(tmp_path / "all"), filled(tmp_path / "some", trials=2)
    assert add_records(some, all_of) == 2
    assert add_records(some, all_of) == 0
    assert len(open_database(tmp_path / "some")) == 4


def fill_disk(folder: str, size: str) -> None:
    """Writes until no file may be larger than `size` bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    database = open_database(Path(folder))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), int(size)))
    task = tasks()[0]
    try:
        for _ in range(100):
            write(database, task, task.guesses[0], 1e-3)
    except TuningError as error:
        sys.stdout.write(f"{error}\n")


def test_a_full_disk_is_noticed_and_leaves_whole_lines(tmp_path: Path) -> None:
    filled(tmp_path)
    workloads, size = (tmp_path / WORKLOADS).read_bytes(), (tmp_path / TRIALS).stat().st_size
    limit = size + 2000
    code = f"import sys; sys.path[:0] = {sys.path!r}; import test_database; test_database.fill_disk(*sys.argv[1:])"
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(folder)!r}); {code}", str(tmp_path), str(limit)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert "the disk is full; free some and run the same command again" in done.stdout
    data = (tmp_path / TRIALS).read_bytes()
    assert data.endswith(b"\n") and (tmp_path / WORKLOADS).read_bytes() == workloads
    assert len(open_database(tmp_path)) == len(data.splitlines()) >= 4
