import csv
import sys
import types

from lqcompile.training.history import Epoch, TensorBoardLog, write_csv

ROWS = [
    Epoch(epoch=1, bases="float", lr=0.1, loss=2.0, test_loss=1.5, top1=0.25, top5=0.75, seconds=3.0),
    Epoch(epoch=2, bases="integer", lr=0.01, loss=1 / 3, test_loss=1.25, top1=0.5, top5=1.0, seconds=2.5),
]


def test_the_log_holds_every_epoch_once(tmp_path):
    path = tmp_path / "log.csv"
    for count in (2, 1, 2):
        write_csv(ROWS[:count], path)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["epoch"], row["bases"]) for row in found] == [("1", "float"), ("2", "integer")]
    for row, epoch in zip(found, ROWS, strict=True):
        for name in ("lr", "loss", "test_loss", "top1", "top5", "seconds"):
            assert float(row[name]) == getattr(epoch, name)


def test_tensorboard_gets_the_same_figures(tmp_path, monkeypatch):
    written, options = [], {}

    class SummaryWriter:
        def __init__(self, folder, **given):
            options.update(given, folder=folder)

        def add_scalar(self, *entry):
            written.append(entry)

        def flush(self):
            written.append("flush")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    log = TensorBoardLog(tmp_path)
    for epoch in ROWS:
        log.add(epoch)
    assert options == {"folder": str(tmp_path), "purge_step": 1}
    expected = []
    for epoch in ROWS:
        expected += [(name, getattr(epoch, name), epoch.epoch) for name in ("lr", "loss", "test_loss", "top1", "top5")]
        expected.append("flush")
    assert written == expected
