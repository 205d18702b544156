"""The export of a network of one's own, tried before hours of training go into it."""

from __future__ import annotations

import torch

from lqcompile.errors import ModelError, UnsupportedError
from lqcompile.graph.check import check
from lqcompile.graph.load import prepare
from lqcompile.nn.export import to_onnx
from lqcompile.training.data.load import ImageData
from lqcompile.training.networks import make_network, twin_of
from lqcompile.training.recipe import Network


def compile_objection(network: Network, images: ImageData) -> str | None:
    """Export the float twin with fresh weights, and check its operators as ``lqcompile build`` does.

    What concerns codes alone is left to the export at the end of a run.

    Args:
        network: of a recipe.
        images: what it reads.

    Returns:
        why ``lqcompile build`` will refuse the exported file; None where it will not.

    Raises:
        TrainingError: as `make_network`.
        QuantizationError: torch cannot export the network.
    """
    twin = make_network(twin_of(network), images)
    proto = to_onnx(twin, torch.zeros(2, *images.shape))
    try:
        check(prepare(proto))
    except (ModelError, UnsupportedError) as error:
        return str(error)
    return None
