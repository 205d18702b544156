"""What a run has done: a row per epoch, always as CSV, and for TensorBoard where that is asked for."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lqcompile.errors import TrainingError
from lqcompile.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch.

    Args:
        epoch: counted from 1.
        bases: "float" while they learn, "integer" once they are snapped.
        lr: learning rate of its last step.
        loss: mean training loss.
        test_loss: mean cross-entropy on the test samples.
        top1: part of the test samples that is right, 0 to 1.
        top5: part whose right class is among the five best.
        seconds: time of training and test.
    """

    epoch: int
    bases: Literal["float", "integer"]
    lr: float
    loss: float
    test_loss: float
    top1: float
    top5: float
    seconds: float


def write_csv(history: Sequence[Epoch], path: Path) -> None:
    """Write one line per epoch, all of it anew, so that the log of a resumed run has each epoch once.

    Raises:
        BuildError: the file cannot be written.
    """
    text = io.StringIO(newline="")
    names = [field.name for field in dataclasses.fields(Epoch)]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(dataclasses.asdict(epoch) for epoch in history)
    write_atomically(path, text.getvalue().encode())


class TensorBoardLog:
    """The same rows as scalars for TensorBoard.

    Args:
        folder: for its event files.

    Raises:
        TrainingError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "TensorBoard log: found no tensorboard, expected it to be installed; pip install tensorboard, or leave "
                "the option out: log.csv has the same figures"
            ) from error
        # Rows of a resumed run are written again: earlier ones of the same epochs do not count.
        self._writer = SummaryWriter(str(folder), purge_step=1)

    def add(self, epoch: Epoch) -> None:
        """Write one epoch."""
        for name in ("lr", "loss", "test_loss", "top1", "top5"):
            self._writer.add_scalar(name, getattr(epoch, name), epoch.epoch)
        self._writer.flush()
