"""The networks of the LQ-Nets paper, in plain torch: float as they are built, low-bit through `lqcompile.nn.quantize`.

    model = lqcompile.models.create("resnet18", weight_bits=2, act_bits=2)

Sources: Zhang et al., "LQ-Nets", ECCV 2018, section 4, and the authors' code (github.com/microsoft/LQ-Nets). Where that
pads as TensorFlow does ("SAME", more at the end), these pad alike on both sides, as torch does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn

from lqcompile.errors import QuantizationError
from lqcompile.models.alexnet import AlexNet
from lqcompile.models.branches import Branching, quantize_branches
from lqcompile.models.densenet import densenet121
from lqcompile.models.googlenet import GoogLeNetVariant
from lqcompile.models.resnet import Block, ResNet, resnet18, resnet20, resnet34, resnet50
from lqcompile.models.vgg import VGGSmall, VGGVariant
from lqcompile.nn.convert import quantize


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network that `create` knows.

    Args:
        make: called with ``classes``, ``in_channels``, ``image_size`` and ``width``; gives the float network.
        classes: of the data set of the paper.
        image_size: rows and columns of its images.
        least: smallest image that the network takes.
    """

    make: Callable[..., nn.Module]
    classes: int
    image_size: int
    least: int


NETWORKS = {
    "alexnet": Network(make=AlexNet, classes=1000, image_size=224, least=64),
    "densenet121": Network(make=densenet121, classes=1000, image_size=224, least=32),
    "googlenet_variant": Network(make=GoogLeNetVariant, classes=1000, image_size=224, least=32),
    "resnet18": Network(make=resnet18, classes=1000, image_size=224, least=32),
    "resnet20": Network(make=resnet20, classes=10, image_size=32, least=8),
    "resnet34": Network(make=resnet34, classes=1000, image_size=224, least=32),
    "resnet50": Network(make=resnet50, classes=1000, image_size=224, least=32),
    "vgg_small": Network(make=VGGSmall, classes=10, image_size=32, least=8),
    "vgg_variant": Network(make=VGGVariant, classes=1000, image_size=224, least=32),
}


def names() -> list[str]:
    """Names of all networks, sorted."""
    return sorted(NETWORKS)


def create(
    name: str,
    *,
    weight_bits: int | None = 2,
    act_bits: int | None = 2,
    edge_bits: Literal[8] | None = 8,
    basis: Literal["float", "int8"] = "int8",
    classes: int | None = None,
    in_channels: int = 3,
    image_size: int | None = None,
    width: float = 1.0,
    float_shortcut: bool = False,
    branch_quantizers: bool = False,
) -> nn.Module:
    """A network with fresh weights, quantized and ready to train or to calibrate.

    The input is float32[N, in_channels, image_size, image_size]; the output float32[N, classes], without softmax.

    Args:
        name: one of `names`; ``-`` and ``_`` are the same.
        weight_bits: 1 to 4; None for the float network (the twin), whatever the other options say.
        act_bits: 1 to 4; None for float activations (weight-only).
        edge_bits: 8 for the first convolution and the last linear layer in 8 bits; None for float, as the paper has it.
        basis: "int8" for integer bases: `snap` (or `calibrate`, which snaps) before export.
        classes: outputs; None for those of the data set of the paper.
        in_channels: channels of the image.
        image_size: rows and columns of the image; None for those of the data set of the paper.
        width: factor on the channels of every hidden layer, rounded to multiples of 8.
        float_shortcut: resnet50 projects its first shortcut from float activations, as the authors' code does.
        branch_quantizers: densenet121 and googlenet_variant quantize before they concatenate, as the authors' code
            does, and not in the layers that read: branches then have different bases, and layers read several of them.

    Returns:
        The network, in training mode.

    Raises:
        QuantizationError: no network has this name, the image is too small for it, `width` is not positive,
            `float_shortcut` or `branch_quantizers` is asked of another network, or `quantize` refuses the bits.
    """
    network = NETWORKS.get(name.replace("-", "_"))
    if network is None:
        raise QuantizationError(f"network {name!r}: unknown; known networks: {', '.join(names())}")
    size = image_size or network.image_size
    if size < network.least:
        raise QuantizationError(
            f"network {name!r}: found image_size={size}, expected at least {network.least}; give larger images"
        )
    if width <= 0:
        raise QuantizationError(f"network {name!r}: found width={width}, expected more than 0; 1 is the paper's width")
    model = network.make(classes=classes or network.classes, in_channels=in_channels, image_size=size, width=width)
    if weight_bits is None:
        return model
    quantize(model, weight_bits, act_bits, edge_bits=edge_bits, basis=basis)
    if float_shortcut:
        _first_projection(name, model).act_quantizer = nn.Identity()
    if branch_quantizers:
        quantize_branches(model, _branching(name, model).readers())
    return model


def _branching(name: str, model: nn.Module) -> Branching:
    """The network as one that concatenates."""
    if not isinstance(model, Branching):
        raise QuantizationError(
            f"network {name!r}: found branch_quantizers=True, expected a network that concatenates, as "
            "googlenet_variant; leave branch_quantizers out"
        )
    return model


def _first_projection(name: str, model: nn.Module) -> nn.Module:
    """The convolution in the shortcut of the first block."""
    block = model.groups[0] if isinstance(model, ResNet) else None
    if not isinstance(block, Block) or not isinstance(block.shortcut, nn.Sequential):
        raise QuantizationError(
            f"network {name!r}: found float_shortcut=True, expected a projection in the first block, as in resnet50; "
            "leave float_shortcut out"
        )
    return block.shortcut[0]
