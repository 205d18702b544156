"""What an 8-bit layer keeps for its backward pass, beside the float layer, in bytes per activation.

    python benchmarks/training_memory.py

One convolution (3x3, 16 channels, behind a ReLU) on 16 million activations in 8 bits, and in W2A2. The figure is what
the process holds more after the forward pass than before, less the output, read from /proc/self/statm (Linux).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch
from torch import Tensor, nn

import lqcompile.nn as lq

SHAPE = (16, 16, 256, 256)
"""Batch, channels, rows and columns: 16,777,216 activations, large enough for each tensor to have pages of its own."""


def resident_bytes() -> int:
    """Memory of this process, without what the allocator holds in reserve."""
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def kept_per_activation(layer: nn.Module) -> float:
    """Bytes per activation that stay for the backward pass of ReLU and `layer`, without the layer's output."""
    x = torch.randn(SHAPE, requires_grad=True)
    layer(x[:1].relu()).sum().backward()  # what is made once, is made before
    before = resident_bytes()
    result: Tensor = layer(x.relu())
    held = resident_bytes() - before - result.nbytes
    result.sum().backward()
    return held / x.numel()


def main() -> None:
    """Measure and print one table."""
    torch.manual_seed(0)
    torch.set_num_threads(1)

    def convolution() -> nn.Conv2d:
        return nn.Conv2d(SHAPE[1], SHAPE[1], 3, padding=1, bias=False)

    layers = {
        "float": convolution(),
        "8-bit weights, 8-bit input": lq.Int8Conv2d.from_float(convolution()),
        "W2A2": lq.LQConv2d.from_float(convolution(), 2, 2),
    }
    print(f"{'layer':28} {'bytes per activation':>20}")
    for name, layer in layers.items():
        print(f"{name:28} {kept_per_activation(layer):20.2f}")


if __name__ == "__main__":
    main()
