"""Which samples make which batch: a function of the seed, the epoch and the process."""

from __future__ import annotations

import torch
from torch import Tensor

from lqcompile.errors import TrainingError


def training_order(count: int, batch: int, *, seed: int, epoch: int, rank: int = 0, world: int = 1) -> list[Tensor]:
    """Batches of one epoch, shuffled; a last one that is not full is left out.

    Args:
        count: samples.
        batch: samples per step, over all processes.
        seed: of the run.
        epoch: counted from 0.
        rank: this process; every process gets an equal part of each batch.
        world: number of processes.

    Returns:
        int64[batch / world] for each step.

    Raises:
        TrainingError: there are fewer samples than make a batch, or the batch cannot be divided among the processes.
    """
    if count < batch:
        raise TrainingError(
            f"training data: found {count} samples, expected at least one batch of {batch}; lower data.batch"
        )
    if batch % world:
        raise TrainingError(
            f"data.batch: found {batch}, expected a multiple of the {world} processes; change data.batch"
        )
    generator = torch.Generator().manual_seed(mix(seed, epoch))
    steps = count // batch
    order = torch.randperm(count, generator=generator)[: steps * batch].view(steps, world, batch // world)
    return list(order[:, rank])


def part_order(count: int, batch: int, *, rank: int = 0, world: int = 1) -> list[Tensor]:
    """Batches of this process that, with those of the others, hold every sample once, in order."""
    return list(torch.split(torch.arange(rank, count, world), batch))


def mix(*parts: int) -> int:
    """A seed that differs whenever one of `parts` does: 0 to 2**62."""
    state = 0x9E3779B97F4A7C15
    for part in parts:
        # SplitMix64 (Steele et al., OOPSLA 2014), one round per part.
        state = (state + part * 0xBF58476D1CE4E5B9 + 0x9E3779B97F4A7C15) % (1 << 64)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) % (1 << 64)
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) % (1 << 64)
        state ^= state >> 31
    return state >> 2
