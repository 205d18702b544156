"""Two processes train as one: started as ``torchrun`` starts them, each with half of every batch."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_training import data, make, recipe

from lqcompile.nn import quantize
from lqcompile.training import Snap, evaluate, fit, ranks

pytestmark = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo")


def train(folder, seed):
    """One process: its state and its result to a file."""
    torch.set_num_threads(1)
    device = ranks.choose_device("cpu")
    with ranks.processes(device):
        torch.manual_seed(seed)
        model = quantize(make(), edge_bits=8, basis="int8")
        plan = recipe(seed=seed, epochs=4, snap=Snap(epochs=1), ema_decay=0.5, bn_batches=2)
        result = fit(model, plan, data(seed, count=101), folder=folder, device=device)
        content = {
            "model": model.state_dict(),
            "top1": [epoch.top1 for epoch in result.history],
            "count": result.test.count,
        }
        torch.save({**content, "loss": [epoch.loss for epoch in result.history]}, folder / f"rank{ranks.rank()}.pt")


def test_all_processes_end_with_the_same_network(seed, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, __file__, str(tmp_path), str(seed)]
    started = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    try:
        assert [process.wait(timeout=300) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name]), name
    for key in ("top1", "loss", "count"):
        assert first[key] == second[key]
    # What they tested in parts is what one process finds, and the files of the first are of that network.
    model = quantize(make(), edge_bits=8, basis="int8")
    model.load_state_dict(torch.load(tmp_path / "final.pt", weights_only=True))
    assert all(torch.equal(value, first["model"][name]) for name, value in model.state_dict().items())
    assert first["count"] == 101 == evaluate(model, data(seed, count=101).test, batch=32).count
    assert (tmp_path / "log.csv").read_text().count("\n") == 5


def test_alone():
    assert (ranks.rank(), ranks.world(), ranks.is_first()) == (0, 1, True)
    values = torch.rand(3)
    assert torch.equal(ranks.summed(values.clone()), values)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]))
