"""Where networks with concatenations can quantize: in the layers that read, or before the concatenation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from torch import nn


class BranchEnd(nn.Identity):
    """Passes on what is concatenated: the place of the authors' quantizer, see `quantize_branches`."""


@runtime_checkable
class Branching(Protocol):
    """A network with concatenations whose parts end in a `BranchEnd` wherever the authors' code quantizes them."""

    def readers(self) -> Iterator[nn.Module]:
        """The layers that read what is concatenated."""


def quantize_branches(model: nn.Module, readers: Iterator[nn.Module]) -> None:
    """Move the quantizers of the layers that read concatenations to the ends of the branches, in place.

    Args:
        model: quantized, whose quantizers are still as they were made.
        readers: layers of `model`; their input is then used as it comes.
    """
    layers = list(readers)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, BranchEnd):
                setattr(parent, name, copy.deepcopy(layers[0].act_quantizer))
    for layer in layers:
        layer.act_quantizer = nn.Identity()
