"""Checkpoints: everything that a run needs to go on, written whole or not at all."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lqcompile.errors import TrainingError
from lqcompile.files import write_atomically
from lqcompile.nn.int8 import Int8Activation
from lqcompile.nn.methods import ActivationQuantizer, WeightQuantizer
from lqcompile.training.history import Epoch
from lqcompile.training.recipe import Recipe

FORMAT = 1

_QUANTIZERS = (ActivationQuantizer, WeightQuantizer, Int8Activation)
"""Modules that a float twin does not have."""

StateDict = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A run after a whole number of epochs. Order, random changes and rates follow from the epoch and the recipe.

    Args:
        recipe: what is run.
        history: the epochs that are done.
        model: state of the network.
        optimizer: state of the optimizer.
        scaler: state of the gradient scaler.
        average: state of the averaged network; empty without one.
        average_steps: steps in that average.
    """

    recipe: Recipe
    history: tuple[Epoch, ...]
    model: StateDict
    optimizer: StateDict
    scaler: StateDict
    average: StateDict
    average_steps: int


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint; a kill leaves the one before.

    Raises:
        BuildError: the file cannot be written.
    """
    content = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(Checkpoint)}
    content |= {
        "format": FORMAT,
        "recipe": checkpoint.recipe.model_dump(mode="json"),
        "history": [dataclasses.asdict(epoch) for epoch in checkpoint.history],
    }
    save_state(content, path)


def load_checkpoint(path: Path, recipe: Recipe) -> Checkpoint:
    """Read the checkpoint of a run of `recipe`.

    Raises:
        TrainingError: it is missing, damaged, of another format, or of another recipe.
    """
    content = load_state(path)
    if content.get("format") != FORMAT:
        raise TrainingError(
            f"checkpoint '{path}': found format {content.get('format')!r}, expected {FORMAT}; start the run anew"
        )
    found, expected = _flat(content["recipe"]), _flat(recipe.model_dump(mode="json"))
    for key in sorted(found | expected):
        if key != "description" and found.get(key) != expected.get(key):
            raise TrainingError(
                f"checkpoint '{path}': found {key} = {found.get(key)!r}, expected {expected.get(key)!r} as in the "
                "recipe; go on with the recipe of the run, or start a new run in another folder"
            )
    values = {field.name: content[field.name] for field in dataclasses.fields(Checkpoint)}
    values |= {"recipe": recipe, "history": tuple(Epoch(**epoch) for epoch in content["history"])}
    return Checkpoint(**values)


def save_state(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values by name.

    Raises:
        BuildError: the file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    write_atomically(path, buffer.getvalue())


def load_state(path: Path) -> StateDict:
    """Read what `save_state` wrote, on the CPU; nothing but tensors and plain values is unpickled.

    Raises:
        TrainingError: the file is missing or damaged, or holds something else.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("it is cut off or was not written by torch.save")
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise TrainingError(f"checkpoint '{path}': found no such file, expected one; check the folder") from error
    except (OSError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"checkpoint '{path}': cannot read it ({' '.join(str(error).split())[:80]}); give an undamaged one, or "
            "start anew"
        ) from error
    if not isinstance(content, dict):
        raise TrainingError(f"checkpoint '{path}': found {type(content).__name__}, expected tensors by name")
    return content


def load_into(model: nn.Module, state: StateDict, path: Path, *, from_twin: bool = False) -> None:
    """Put a state into a network.

    Args:
        model: the network, changed in place.
        state: as ``model.state_dict()``.
        path: where it comes from, for messages.
        from_twin: the state is that of the float twin, so that quantizers may be missing in it; they stay as they are.

    Raises:
        TrainingError: the state is that of another network; the first difference is named.
    """
    own = model.state_dict()
    quantizers = (
        [name for name, module in model.named_modules() if isinstance(module, _QUANTIZERS)] if from_twin else []
    )
    for name in [*own, *state]:
        if name not in state and any(name.startswith(f"{quantizer}.") for quantizer in quantizers):
            continue
        found, expected = _form(state.get(name)), _form(own.get(name))
        if found != expected:
            raise TrainingError(
                f"checkpoint '{path}': found '{name}' {found}, expected {expected}: it is of another network; "
                "give one of the same network"
            )
    model.load_state_dict(state, strict=not from_twin)


def _form(value: Any) -> str:
    return "missing" if value is None else str(list(value.shape)) if hasattr(value, "shape") else type(value).__name__


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat
