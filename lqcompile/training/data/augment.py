"""Random changes of batches in memory: uint8[N, C, H, W] -> uint8[N, C, H, W], each image by a draw of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, left to right."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def crop(images: Tensor, generator: torch.Generator, pad: int) -> Tensor:
    """Shift every image by up to `pad` rows and columns; zeros come in."""
    count, _, rows, columns = images.shape
    padded = F.pad(images, (pad, pad, pad, pad))
    top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    row = (top + torch.arange(rows))[:, None, :, None]
    column = (left + torch.arange(columns))[:, None, None, :]
    channel = torch.arange(images.shape[1])[None, :, None, None]
    return padded[torch.arange(count)[:, None, None, None], channel, row, column]


def crop_flip(images: Tensor, generator: torch.Generator, pad: int) -> Tensor:
    """`crop`, then `flip`."""
    return flip(crop(images, generator, pad), generator)
