"""VGG-Small for images of 32x32 (CIFAR-10, Fashion-MNIST)."""

from __future__ import annotations

from torch import Tensor, nn

from lqcompile.models.scale import scaled

WIDTHS = (128, 128, 256, 256, 512, 512)


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
