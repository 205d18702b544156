"""All trials in MetaSchedule's JSON database: two files that only ever grow, one line for each workload and trial.

A process that is killed while it writes leaves at most a part of the last line, which is removed when the database is
opened again. TVM (0.27) does not notice that a disk is full; here each line is looked at after it was written.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import tvm
from tvm.ir.utils import derived_object
from tvm.s_tir.meta_schedule.database import JSONDatabase, PyDatabase, TuningRecord, Workload

from lqcompile.errors import TuningError
from lqcompile.tuning.workload import identity, read_workload

WORKLOADS, TRIALS = "workloads.json", "trials.json"
"""Names of the two files."""

FAILED_S = 1e10
"""What MetaSchedule records for a trial that failed."""


class Database:
    """A JSON database that threads share; see `open_database`. MetaSchedule takes `Shared` in its place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._inner = JSONDatabase(str(folder / WORKLOADS), str(folder / TRIALS))

    def has_workload(self, mod: tvm.IRModule) -> bool:
        """Whether there are trials of a workload."""
        with self._lock:
            found: bool = self._inner.has_workload(mod)
            return found

    def commit_workload(self, mod: tvm.IRModule) -> Workload:
        """Adds a workload, if it is new.

        Raises:
            TuningError: the file could not be written.
        """
        with self._lock:
            path = self.folder / WORKLOADS
            before = path.stat().st_size
            workload = self._inner.commit_workload(mod)
            if path.stat().st_size != before:
                self._check(path, before)
            return workload

    def commit_tuning_record(self, record: TuningRecord) -> None:
        """Adds a trial.

        Raises:
            TuningError: the file could not be written; it is as before then.
        """
        with self._lock:
            path = self.folder / TRIALS
            before = path.stat().st_size
            self._inner.commit_tuning_record(record)
            self._check(path, before)

    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """The fastest trials of a workload."""
        with self._lock:
            found: list[TuningRecord] = self._inner.get_top_k(workload, top_k)
            return found

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """All trials, the fastest first."""
        with self._lock:
            found: list[TuningRecord] = self._inner.get_all_tuning_records()
            return found

    def __len__(self) -> int:
        with self._lock:
            return len(self._inner)

    def _check(self, path: Path, before: int) -> None:
        """The file must have grown by a whole line."""
        with path.open("r+b") as file:
            file.seek(before)
            added = file.read()
            if added.endswith(b"\n"):
                return
            file.truncate(before)
        raise TuningError(
            f"records '{path}': found {len(added)} bytes written of a line, expected all: the disk is full; free some "
            "and run the same command again, which goes on where this one stopped"
        )


@derived_object
class Shared(PyDatabase):  # type: ignore[misc]
    """A `Database` as MetaSchedule takes it; errors that pass through TVM lose their kind, so only TVM calls it."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    def has_workload(self, mod: tvm.IRModule) -> bool:
        """As `Database`."""
        return self._database.has_workload(mod)

    def commit_workload(self, mod: tvm.IRModule) -> Workload:
        """As `Database`."""
        return self._database.commit_workload(mod)

    def commit_tuning_record(self, record: TuningRecord) -> None:
        """As `Database`."""
        self._database.commit_tuning_record(record)

    def get_top_k(self, workload: Workload, top_k: int) -> list[TuningRecord]:
        """As `Database`."""
        return self._database.get_top_k(workload, top_k)

    def get_all_tuning_records(self) -> list[TuningRecord]:
        """As `Database`."""
        return self._database.get_all_tuning_records()

    def __len__(self) -> int:
        return len(self._database)


def open_database(folder: Path) -> Database:
    """Opens the database in a folder, or begins one.

    Raises:
        TuningError: the folder cannot be used, or its files are damaged or of another program.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WORKLOADS, TRIALS):
            _repair(folder / name)
    except OSError as error:
        raise TuningError(
            f"folder '{folder}': found {(error.strerror or str(error)).lower()}, expected one that can be written; "
            "choose another one with --work-dir"
        ) from error
    try:
        database = Database(folder)
    except (RuntimeError, ValueError, TypeError) as error:
        raise TuningError(
            f"records '{folder}': found lines that TVM's MetaSchedule cannot read, expected those of 'lqcompile tune'; "
            "choose another folder"
        ) from error
    for record in database.get_all_tuning_records():
        read_workload(record.workload.mod, str(folder))
    return database


def add_records(database: Database, source: Database) -> int:
    """Copies the trials of another database that are not there yet; gives how many were copied."""
    known = {_content(record) for record in database.get_all_tuning_records()}
    added = 0
    for record in source.get_all_tuning_records():
        if _content(record) not in known:
            workload = database.commit_workload(record.workload.mod)
            copy = TuningRecord(record.trace, workload, record.run_secs, record.target, record.args_info)
            database.commit_tuning_record(copy)
            added += 1
    return added


def _content(record: TuningRecord) -> tuple[str, ...]:
    """Equal for equal trials."""
    return (*identity(record.workload.mod), str(record.trace), str([float(value) for value in record.run_secs or []]))


def is_valid(record: TuningRecord) -> bool:
    """Whether a trial succeeded."""
    seconds = [float(value) for value in record.run_secs or []]
    return bool(seconds) and max(seconds) < FAILED_S


def _repair(path: Path) -> None:
    """Removes the part of a line at the end that a killed process left.

    Raises:
        TuningError: another line is damaged.
    """
    path.touch()
    with path.open("r+b") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        file.truncate(end)
    for number, line in enumerate(data[:end].splitlines(), start=1):
        if not _is_json(line):
            raise TuningError(
                f"records '{path}': found a damaged line {number}, expected JSON; remove that line, or choose another "
                "folder"
            )


def _is_json(line: bytes) -> bool:
    try:
        value: Any = json.loads(line)
    except ValueError:
        return False
    return isinstance(value, list)
