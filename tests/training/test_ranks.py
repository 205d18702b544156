"""Two processes train as one: started by ``torchrun``, each with half of every batch."""

import os
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_training import data, make, recipe
from torch import nn
from torch.distributed.run import parse_args
from torch.nn.parallel import DistributedDataParallel

from lqcompile.nn import quantize
from lqcompile.training import Snap, evaluate, fit, ranks

needs_gloo = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo")

TIMEOUT_S = 300


def fitted(folder, seed, device):
    """A run with all that processes have to agree on: its state and its results."""
    torch.manual_seed(seed)
    model = quantize(make(), edge_bits=8, basis="int8")
    plan = recipe(seed=seed, epochs=4, snap=Snap(epochs=1), ema_decay=0.5, bn_batches=2)
    result = fit(model, plan, data(seed, count=101), folder=folder, device=device)
    return {
        "model": model.state_dict(),
        "top1": [epoch.top1 for epoch in result.history],
        "loss": [epoch.loss for epoch in result.history],
        "count": result.test.count,
    }


def stepped(seed, batches, wrap):
    """A loop of one's own: the state after a few steps, on what `batches` picks, with the model that `wrap` gives."""
    torch.manual_seed(seed)
    layers = (nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    model = quantize(nn.Sequential(*layers), edge_bits=8)
    images = torch.randn(4, 2, 32, 6)
    parallel = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(4):
        loss = parallel(batches(images[step])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.state_dict()


def process(folder, seed):
    """One of the processes: what it found, to a file."""
    torch.set_num_threads(1)
    device = ranks.choose_device("cpu")
    with ranks.processes(device):
        rank = ranks.rank()
        found = {"fit": fitted(folder, seed, device)}
        for broadcast in (True, False):
            found[broadcast] = stepped(
                seed,
                lambda images: images[rank],
                lambda model: DistributedDataParallel(model, broadcast_buffers=broadcast),  # noqa: B023 - called at once
            )
        torch.save(found, folder / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """Both processes once, in a session of their own: the folder, the seed, and what each of the two found."""
    folder = tmp_path_factory.mktemp("ranks")
    seed = random.randrange(1 << 31)  # noqa: S311 - test data
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(
        [*command, str(folder), str(seed)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = launcher.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(launcher.pid, signal.SIGKILL)
        said, _ = launcher.communicate()
        pytest.fail(f"seed {seed}: the processes took longer than {TIMEOUT_S} s\n{said}")
    assert launcher.returncode == 0, f"seed {seed}: exit code {launcher.returncode}\n{said}"
    found = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    return folder, seed, found


def differing(first, second):
    """Names of the tensors that are not equal, bit for bit."""
    assert first.keys() == second.keys()
    return [name for name, value in first.items() if not torch.equal(value, second[name])]


@needs_gloo
def test_all_processes_end_with_the_same_network(started):
    folder, seed, (first, second) = (started[0], started[1], (part["fit"] for part in started[2]))
    assert not differing(first["model"], second["model"]), f"seed {seed}"
    for key in ("top1", "loss", "count"):
        assert first[key] == second[key], f"seed {seed}"
    # What they tested in parts is what one process finds, and the files of the first are of that network.
    model = quantize(make(), edge_bits=8, basis="int8")
    model.load_state_dict(torch.load(folder / "final.pt", weights_only=True))
    assert not differing(model.state_dict(), first["model"]), f"seed {seed}"
    assert first["count"] == 101 == evaluate(model, data(seed, count=101).test, batch=32).count
    assert (folder / "log.csv").read_text().count("\n") == 5


@needs_gloo
@pytest.mark.parametrize("broadcast", [True, False])
def test_processes_agree_with_each_other_and_with_one_alone(started, broadcast):
    _, seed, found = started
    first, second = (part[broadcast] for part in found)
    assert not differing(first, second), f"seed {seed}"
    # One process that sees both halves at once: sums of counts and totals give the same least squares.
    alone = stepped(seed, lambda images: images.flatten(0, 1), lambda model: model)
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-2, atol=1e-2, msg=f"seed {seed}: {name}")


def test_alone():
    assert (ranks.rank(), ranks.world(), ranks.is_first()) == (0, 1, True)
    values = torch.rand(3)
    assert torch.equal(ranks.summed(values.clone()), values)


if __name__ == "__main__":
    process(Path(sys.argv[1]), int(sys.argv[2]))


def test_the_documented_command_passes_every_option_on():
    """torchrun takes ``--start`` for one of its own, unless a ``--`` stands before the program."""
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"`torchrun (.+?) RECIPE \.\.\.`", page)
    call = ["low.toml", "--data", "data", "-o", "runs/low", "--start", "runs/float"]
    found = parse_args([*command.split(), *call])
    assert (found.module, found.training_script, found.training_script_args) == (True, "lqcompile", ["train", *call])
