"""DenseNet-121 as the authors of LQ-Nets have it: activation behind each convolution, not in front of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lqcompile.models.branches import BranchEnd
from lqcompile.models.scale import scaled

COUNTS = (6, 12, 24, 16)
"""Layers of each dense block."""

GROWTH = 32


class DenseLayer(nn.Module):
    """1x1 convolution to four times the growth, then 3x3 to the growth, in front of what it read.

    Args:
        inputs: channels of the input.
        growth: channels that it adds.
    """

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
            nn.BatchNorm2d(growth),
            nn.ReLU(),
            BranchEnd(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float[N, C, H, W] -> float[N, growth + C, H, W]."""
        return torch.cat([self.branch(x), x], 1)


class DenseNet(nn.Module):
    """A stem, dense blocks with halving transitions in between, mean over the image, one linear layer.

    A transition is a 1x1 convolution to half of the channels and an average pooling, without an activation: what leaves
    it may be negative. The authors' quantizers leave it, and the stem, in float. Quantizers in the layers that read
    have one basis for all, and cut off the negative part.

    Args:
        counts: layers of each dense block.
        classes: outputs.
        in_channels: channels of the image.
        width: factor on the hidden channels.
    """

    def __init__(self, counts: Sequence[int], *, classes: int, in_channels: int, width: float) -> None:
        super().__init__()
        growth = scaled(GROWTH, width)
        channels = 2 * growth
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        layers: list[nn.Module] = []
        for number, count in enumerate(counts):
            if number:
                layers.append(nn.Sequential(nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2)))
                channels //= 2
            for _ in range(count):
                layers.append(DenseLayer(channels, growth))
                channels += growth
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """float[N, C, H, W] -> float[N, classes]."""
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(x))))
        return logits

    def readers(self) -> Iterator[nn.Module]:
        """The 1x1 convolutions: of dense layers and of transitions."""
        for layer in self.blocks:
            yield next((layer.branch if isinstance(layer, DenseLayer) else layer).children())


def densenet121(*, classes: int, in_channels: int, image_size: int, width: float) -> DenseNet:  # noqa: ARG001 - any size
    """DenseNet-121 for ImageNet."""
    return DenseNet(COUNTS, classes=classes, in_channels=in_channels, width=width)
