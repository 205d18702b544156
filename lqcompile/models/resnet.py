"""Pre-activation residual networks, for ImageNet (18, 34, 50) and for CIFAR (20)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lqcompile.models.scale import scaled


class Block(nn.Module):
    """Convolutions with batch normalization in between, added to a shortcut.

    Within a group the branch starts with batch normalization and ReLU and the shortcut is the sum itself, in float. The
    first block of a group finds them done: in front of it they serve the branch and the projecting shortcut alike.

    Args:
        inputs: channels of the input.
        widths: (output channels, kernel, stride) of each convolution.
        first: it is the first block of its group.
    """

    def __init__(self, inputs: int, widths: Sequence[tuple[int, int, int]], *, first: bool) -> None:
        super().__init__()
        self.preactivation = nn.Identity() if first else nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        layers: list[nn.Module] = []
        channels, stride = inputs, 1
        for width, kernel, step in widths:
            layers += [nn.ReLU()] if layers else []
            layers.append(nn.Conv2d(channels, width, kernel, step, kernel // 2, bias=False))
            layers.append(nn.BatchNorm2d(width))
            channels, stride = width, stride * step
        self.branch = nn.Sequential(*layers)
        self.shortcut: nn.Module = nn.Identity()
        if channels != inputs or stride != 1:
            convolution = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """float[N, C, H, W] -> float[N, O, H / stride, W / stride]."""
        total: Tensor = self.branch(self.preactivation(x)) + self.shortcut(x)
        return total


class ResNet(nn.Module):
    """A stem, groups of blocks that each end in batch normalization and ReLU, mean over the image, one linear layer.

    Args:
        stem: image to the features that the first group reads.
        groups: (width, blocks) of each group; all but the first halve the image.
        bottleneck: blocks of three convolutions, 1x1, 3x3, 1x1 to four times the width, instead of two of 3x3.
        inputs: channels that the stem gives.
        classes: outputs.
    """

    def __init__(
        self, stem: nn.Module, groups: Sequence[tuple[int, int]], *, bottleneck: bool, inputs: int, classes: int
    ) -> None:
        super().__init__()
        self.stem = stem
        layers: list[nn.Module] = []
        for group, (width, count) in enumerate(groups):
            for index in range(count):
                stride = 2 if group and not index else 1
                widths = [(width, 3, stride), (width, 3, 1)]
                if bottleneck:
                    widths = [(width, 1, 1), (width, 3, stride), (4 * width, 1, 1)]
                layers.append(Block(inputs, widths, first=not index))
                inputs = widths[-1][0]
            layers += [nn.BatchNorm2d(inputs), nn.ReLU()]
        self.groups = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """float[N, C, H, W] -> float[N, classes]."""
        logits: Tensor = self.classifier(self.pool(self.groups(self.stem(x))).flatten(1))
        return logits


def resnet18(*, classes: int, in_channels: int, image_size: int, width: float) -> ResNet:  # noqa: ARG001 - any size
    """ResNet-18 for ImageNet."""
    return _imagenet((2, 2, 2, 2), classes, in_channels, width, bottleneck=False)


def resnet34(*, classes: int, in_channels: int, image_size: int, width: float) -> ResNet:  # noqa: ARG001
    """ResNet-34 for ImageNet."""
    return _imagenet((3, 4, 6, 3), classes, in_channels, width, bottleneck=False)


def resnet50(*, classes: int, in_channels: int, image_size: int, width: float) -> ResNet:  # noqa: ARG001
    """ResNet-50 for ImageNet, the stride in the 3x3 convolution."""
    return _imagenet((3, 4, 6, 3), classes, in_channels, width, bottleneck=True)


def resnet20(*, classes: int, in_channels: int, image_size: int, width: float) -> ResNet:  # noqa: ARG001
    """ResNet-20 for CIFAR; shortcuts between groups are projections (the paper pools and pads with zeros there)."""
    channels = tuple(scaled(full, width) for full in (16, 32, 64))
    stem = nn.Sequential(
        nn.Conv2d(in_channels, channels[0], 3, 1, 1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()
    )
    groups = tuple((count, 3) for count in channels)
    return ResNet(stem, groups, bottleneck=False, inputs=channels[0], classes=classes)


def _imagenet(counts: Sequence[int], classes: int, in_channels: int, width: float, *, bottleneck: bool) -> ResNet:
    channels = tuple(scaled(full, width) for full in (64, 128, 256, 512))
    stem = nn.Sequential(
        nn.Conv2d(in_channels, channels[0], 7, 2, 3, bias=False),
        nn.BatchNorm2d(channels[0]),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    )
    groups = tuple(zip(channels, counts, strict=True))
    return ResNet(stem, groups, bottleneck=bottleneck, inputs=channels[0], classes=classes)
