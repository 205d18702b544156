"""The processes of one run: one alone, or several that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that writes files and speaks; also before and after the processes are joined."""
    return int(os.environ.get("RANK", "0")) == 0


def world() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(values: Tensor) -> Tensor:
    """Sum of `values` over all processes."""
    if world() > 1:
        dist.all_reduce(values)
    return values


def average_statistics(model: nn.Module) -> None:
    """Replace the running statistics of batch normalization by their mean over all processes, so that all are equal."""
    if world() == 1:
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for statistic in (module.running_mean, module.running_var):
                if statistic is not None:
                    statistic.copy_(summed(statistic.clone()) / world())


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the other processes where ``torchrun`` started this one; it says so in the environment."""
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys() or not dist.is_available():
        yield
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def choose_device(name: str | None = None) -> torch.device:
    """The device of this process: `name`, or the CUDA device that ``torchrun`` gives it, or the CPU."""
    if name is not None:
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
