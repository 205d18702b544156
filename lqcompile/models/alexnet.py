"""AlexNet with batch normalization, without groups, dropout and local response normalization."""

from __future__ import annotations

from torch import Tensor, nn

from lqcompile.models.scale import scaled

WIDTHS = (96, 256, 384, 384, 256, 4096)
"""Channels of the convolutions, and of both hidden linear layers."""


class AlexNet(nn.Module):
    """Five convolutions and three linear layers, as in the authors' code.

    There the input has 227 rows and conv1 no padding; here it has 224 and conv1 pads by 2: both give 55.

    Args:
        classes: outputs.
        in_channels: channels of the image.
        image_size: rows and columns of the image.
        width: factor on the hidden channels.
    """

    def __init__(self, *, classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0) -> None:
        super().__init__()
        first, second, third, fourth, fifth, hidden = (scaled(channels, width) for channels in WIDTHS)
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, first, 11, stride=4, padding=2, bias=False),
            *_pool_norm(first),
            nn.Conv2d(first, second, 5, padding=2, bias=False),
            *_pool_norm(second),
            nn.Conv2d(second, third, 3, padding=1, bias=False),
            nn.BatchNorm2d(third),
            nn.ReLU(),
            nn.Conv2d(third, fourth, 3, padding=1, bias=False),
            nn.BatchNorm2d(fourth),
            nn.ReLU(),
            nn.Conv2d(fourth, fifth, 3, padding=1, bias=False),
            *_pool_norm(fifth),
        )
        size = (image_size + 2 * 2 - 11) // 4 + 1
        for _ in range(3):
            size = (size - 3) // 2 + 1
        self.classifier = nn.Sequential(
            nn.Linear(fifth * size**2, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float[N, C, H, W] -> float[N, classes]."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def _pool_norm(channels: int) -> tuple[nn.Module, ...]:
    return nn.MaxPool2d(3, 2), nn.BatchNorm2d(channels), nn.ReLU()
