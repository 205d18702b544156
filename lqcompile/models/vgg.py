"""VGG-Small for images of 32x32 (CIFAR-10, Fashion-MNIST), and VGG-Variant for ImageNet."""

from __future__ import annotations

from torch import Tensor, nn

from lqcompile.models.scale import scaled

WIDTHS = (128, 128, 256, 256, 512, 512)

VARIANT_GROUPS = (256, 512, 512)
"""Channels of each three convolutions of VGG-Variant."""


class VGGSmall(nn.Module):
    """Six convolutions of 3x3, a max-pooling behind every second one, one linear layer.

    ``conv BN ReLU | conv pool BN ReLU | ...``: pooling comes before batch normalization, as in the authors' code.

    Args:
        classes: outputs.
        in_channels: channels of the image.
        image_size: rows and columns of the image.
        width: factor on the hidden channels.
    """

    def __init__(self, *, classes: int = 10, in_channels: int = 3, image_size: int = 32, width: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index, full in enumerate(WIDTHS):
            channels = scaled(full, width)
            layers.append(nn.Conv2d(in_channels, channels, 3, padding=1, bias=False))
            if index % 2:
                layers.append(nn.MaxPool2d(2))
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
            in_channels = channels
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(in_channels * (image_size // 8) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """float[N, C, H, W] -> float[N, classes]."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


class VGGVariant(nn.Module):
    """A convolution of 7x7, nine of 3x3 with a max-pooling behind every third one, three linear layers.

    Pooling comes before batch normalization, as in the authors' code, which has no affine part in the batch
    normalization between the linear layers.

    Args:
        classes: outputs.
        in_channels: channels of the image.
        image_size: rows and columns of the image.
        width: factor on the hidden channels.
    """

    def __init__(self, *, classes: int = 1000, in_channels: int = 3, image_size: int = 224, width: float = 1.0) -> None:
        super().__init__()
        channels, hidden = scaled(96, width), scaled(4096, width)
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False), nn.ReLU(), nn.MaxPool2d(2)]
        layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        for full in VARIANT_GROUPS:
            outputs = scaled(full, width)
            for index in range(3):
                layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
                if index == 2:
                    layers.append(nn.MaxPool2d(2))
                layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
                channels = outputs
        self.features = nn.Sequential(*layers)
        size = (image_size + 1) // 2 // 16
        self.classifier = nn.Sequential(
            nn.Linear(channels * size**2, hidden),
            nn.BatchNorm1d(hidden, affine=False),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.BatchNorm1d(hidden, affine=False),
            nn.ReLU(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float[N, C, H, W] -> float[N, classes]."""
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits
