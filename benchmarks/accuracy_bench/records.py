"""The table of finished runs: a CSV file that rows are only ever added to."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accuracy_bench.matrix import FORMS, RATES, Case, Form


@dataclass(frozen=True, kw_only=True)
class Record:
    """One finished run; accuracies are of the 10,000 test images, in percent.

    Args:
        network: of `lqcompile.models`.
        width: factor on its channels.
        image_size: rows and columns.
        setting: such as W2A2.
        weight_bits: 32 is float.
        act_bits: 32 is float.
        method: lq, lsq, dorefa-pact or float.
        seed: .
        twin_epochs: passes of the float twin that the run starts from.
        epochs: passes of the run itself.
        lr: highest learning rate.
        batch: images per step.
        train_images: .
        twin: accuracy of the float twin.
        calibrated: accuracy after calibration, before the first step.
        top1: accuracy of the finished network: float bases, first and last layer in float.
        integer_bases: that network with its bases snapped, not trained on (lq alone, like the next two).
        edges8: that network with its first and last layer in 8 bits, not trained on.
        integer_all: both at once.
        seconds: of the run, without the twin.
        machine: processor.
        torch: version.
        date: when it was done, UTC.
    """

    network: str
    width: float
    image_size: int
    setting: str
    weight_bits: int
    act_bits: int
    method: str
    seed: int
    twin_epochs: int
    epochs: int
    lr: float
    batch: int
    train_images: int
    twin: float
    calibrated: float | None
    top1: float
    integer_bases: float | None
    edges8: float | None
    integer_all: float | None
    seconds: float
    machine: str
    torch: str
    date: str

    @property
    def case(self) -> Case:
        """Which run it is."""
        form = Form(width=self.width, image_size=self.image_size, twin_epochs=self.twin_epochs, epochs=self.epochs)
        return Case(
            network=self.network, form=form, setting=self.setting, method=self.method, seed=self.seed, lr=self.lr
        )


FIELDS = [field.name for field in dataclasses.fields(Record)]

_PARSE = {"int": int, "float": float, "str": str, "float | None": lambda text: float(text) if text else None}


def read_records(path: Path) -> list[Record]:
    """All rows of a file, none where there is no file.

    Raises:
        ValueError: the file has other columns.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames != FIELDS:
            raise ValueError(f"{path}: found columns {rows.fieldnames}, expected {FIELDS}; give another --results")
        types = {field.name: _PARSE[str(field.type)] for field in dataclasses.fields(Record)}
        return [Record(**{name: types[name](text) for name, text in row.items()}) for row in rows]


def append_record(path: Path, record: Record) -> None:
    """Add a row, and the header to a new file; a row is written at once, so a killed process leaves none in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "" if path.exists() else _line(FIELDS)
    values = dataclasses.asdict(record).values()
    text += _line(["" if value is None else str(value) for value in values])
    with path.open("a", newline="", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def remaining(cases: Sequence[Case], records: Sequence[Record]) -> list[Case]:
    """The cases that have no row yet, in their order."""
    done = {record.case for record in records}
    return [case for case in cases if case not in done]


def chosen_rate(records: Sequence[Record], network: str, setting: str, method: str) -> float | None:
    """The rate of `RATES` with the higher test accuracy at seed 0 of a network; None until both have been tried."""
    done = {record.case: record.top1 for record in records}
    form = FORMS[network]
    cases = [Case(network=network, form=form, setting=setting, method=method, seed=0, lr=lr) for lr in RATES]
    return max(cases, key=lambda case: done[case]).lr if set(cases) <= set(done) else None


def _line(values: Sequence[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(values)
    return buffer.getvalue()
