"""The network of a recipe: one of `lqcompile.models`, or one of the user's own."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from torch import nn

from lqcompile import models
from lqcompile.errors import TrainingError
from lqcompile.nn.convert import quantize
from lqcompile.training.data.load import ImageData
from lqcompile.training.recipe import Bits, Network


def make_network(network: Network, data: ImageData) -> nn.Module:
    """The network with fresh weights, for the images and classes of `data`.

    Raises:
        TrainingError: an option of the recipe is unknown, or a network of one's own cannot be made.
        QuantizationError: the network is unknown or too large for the images, or it cannot be quantized.
    """
    if network.is_own:
        return _quantized(_own(network.name), network)
    channels, rows, columns = data.shape
    if rows != columns:
        raise TrainingError(
            f"network {network.name!r}: found images of {rows}x{columns}, expected square ones; "
            "use a network of your own (FILE.py:NAME)"
        )
    try:
        return models.create(
            network.name,
            weight_bits=_low(network.weight_bits),
            act_bits=_low(network.act_bits),
            edge_bits=_edge(network),
            basis=network.basis,
            classes=data.classes,
            in_channels=channels,
            image_size=rows,
            **network.options,  # type: ignore[arg-type]  # names and types are looked at by create
        )
    except TypeError as error:
        raise TrainingError(
            f"network.options: found {sorted(network.options)}, expected arguments of lqcompile.models.create ({error})"
        ) from error


def twin_of(network: Network) -> Network:
    """The same network in float."""
    return network.model_copy(update={"weight_bits": 32})


def _quantized(model: nn.Module, network: Network) -> nn.Module:
    if network.is_float:
        return model
    return quantize(
        model,
        network.weight_bits,
        _low(network.act_bits),
        skip=("first", "last", *network.skip),
        edge_bits=_edge(network),
        basis=network.basis,
    )


def _low(bits: Bits) -> int | None:
    return None if bits == 32 else bits


def _edge(network: Network) -> Literal[8] | None:
    return 8 if network.edge_bits == 8 else None


def _own(name: str) -> nn.Module:
    """``FILE.py:NAME``, called without arguments."""
    file, _, attribute = name.rpartition(":")
    path = Path(file)
    if not path.is_file():
        raise TrainingError(f"network '{name}': found no file '{file}', expected one with the network; check the path")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise TrainingError(f"network '{name}': found a file that is not Python, expected FILE.py:NAME")
    module = importlib.util.module_from_spec(spec)
    with _own_code(name):
        spec.loader.exec_module(module)
    make: Callable[[], object] | None = getattr(module, attribute, None)
    if not callable(make):
        known = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
        raise TrainingError(
            f"network '{name}': found no {attribute!r} in the file; it has {', '.join(known) or 'none'}"
        )
    with _own_code(name):
        model = make()
    if not isinstance(model, nn.Module):
        raise TrainingError(f"network '{name}': found {type(model).__name__}, expected a torch.nn.Module")
    return model


@contextmanager
def _own_code(name: str) -> Iterator[None]:
    """Whatever a network's own code raises becomes one line; ``--debug`` shows all of it."""
    try:
        yield
    except Exception as error:
        found = " ".join(f"{type(error).__name__}: {error}".split())
        raise TrainingError(
            f"network '{name}': found {found}, expected code that runs and makes the network without arguments; try it "
            "in Python, or add --debug"
        ) from error
