"""GoogLeNet-Variant: nine inception blocks without pooling branches."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lqcompile.models.branches import BranchEnd
from lqcompile.models.scale import scaled

BLOCKS = (
    ((96, 128, 32), False),
    ((192, 192, 96), True),
    ((256, 208, 48), False),
    ((224, 224, 64), False),
    ((192, 256, 64), False),
    ((176, 288, 64), False),
    ((384, 320, 128), True),
    ((384, 320, 128), False),
    ((512, 384, 128), False),
)
"""Channels of the branches of 1x1, 3x3 and 5x5 of each block, and whether each branch ends in a max-pooling."""


class Inception(nn.Module):
    """Branches of 1x1, 3x3 and 5x5, concatenated. A 1x1 convolution of the same width comes first in the last two.

    Args:
        inputs: channels of the input.
        widths: channels that each branch gives.
        pooled: branches end in max-pooling in front of batch normalization and ReLU.
        last: branches end in their convolution: batch normalization and ReLU follow the concatenation.
    """

    def __init__(self, inputs: int, widths: tuple[int, ...], *, pooled: bool, last: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for width, kernel in zip(widths, (1, 3, 5), strict=True):
            layers: list[nn.Module] = []
            if kernel > 1:
                layers += [nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers.append(nn.Conv2d(width if layers else inputs, width, kernel, padding=kernel // 2, bias=False))
            if pooled:
                layers.append(nn.MaxPool2d(3, 2, 1))
            if not last:
                layers += [nn.BatchNorm2d(width), nn.ReLU(), BranchEnd()]
            self.branches.append(nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        """float[N, C, H, W] -> float[N, sum of widths, H, W], or half of H and W."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class GoogLeNetVariant(nn.Module):
    """A stem of three convolutions, nine inception blocks, mean over the image, one linear layer.

    Args:
        classes: outputs.
        in_channels: channels of the image.
        image_size: rows and columns of the image; any.
        width: factor on the hidden channels.
    """

    def __init__(self, *, classes: int, in_channels: int, image_size: int, width: float) -> None:  # noqa: ARG002
        super().__init__()
        first, second = scaled(64, width), scaled(192, width)
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, first, 7, 2, 3, bias=False),
            nn.MaxPool2d(3, 2, 1),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.Conv2d(first, second, 1, bias=False),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            nn.Conv2d(second, second, 3, padding=1, bias=False),
            nn.MaxPool2d(3, 2, 1),
            nn.BatchNorm2d(second),
            nn.ReLU(),
            BranchEnd(),
        )
        blocks: list[Inception] = []
        inputs = second
        for number, (full, pooled) in enumerate(BLOCKS):
            widths = tuple(scaled(channels, width) for channels in full)
            blocks.append(Inception(inputs, widths, pooled=pooled, last=number == len(BLOCKS) - 1))
            inputs = sum(widths)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """float[N, C, H, W] -> float[N, classes]."""
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(x))))
        return logits

    def readers(self) -> Iterator[nn.Module]:
        """The first convolution of every branch."""
        for block in self.blocks:
            if isinstance(block, Inception):
                yield from (next(branch.children()) for branch in block.branches)
