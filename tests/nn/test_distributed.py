import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from lqcompile.nn import quantize


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def train(folder, seed, broadcast, rank):
    """One of two ranks: its half of the data, then its buffers to a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(seed)
    model = quantize(net(), edge_bits=8)
    data = torch.randn(4, 2, 32, 6)
    parallel = DistributedDataParallel(model, broadcast_buffers=bool(broadcast))
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(4):
        loss = parallel(data[step, rank]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(model.state_dict(), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo")
@pytest.mark.parametrize("broadcast", [True, False])
def test_ranks_agree_with_each_other_and_with_one_process(seed, tmp_path, broadcast):
    command = [sys.executable, __file__, str(tmp_path), str(seed), str(int(broadcast))]
    ranks = [subprocess.Popen([*command, str(rank)]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    states = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name

    # One process that sees both halves at once: sums of counts and totals give the same least squares.
    torch.manual_seed(seed)
    model = quantize(net(), edge_bits=8)
    data = torch.randn(4, 2, 32, 6)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for step in range(4):
        loss = model(data[step].flatten(0, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(states[0][name], value, rtol=1e-2, atol=1e-2, msg=name)


if __name__ == "__main__":
    train(sys.argv[1], *map(int, sys.argv[2:]))
