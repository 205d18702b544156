"""A whole run in a folder of its own: recipe, data, network, checkpoints, log and exported files."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tomli_w
import torch
from torch import Tensor, nn

from lqcompile.errors import TrainingError
from lqcompile.files import write_atomically
from lqcompile.nn.export import export
from lqcompile.training import ranks
from lqcompile.training.checkpoint import load_into, load_state
from lqcompile.training.data.load import ImageData, load_data
from lqcompile.training.data.order import part_order
from lqcompile.training.fit import BEST, CHECKPOINT, FINAL, Result, fit
from lqcompile.training.history import Epoch, TensorBoardLog
from lqcompile.training.loop import Step
from lqcompile.training.networks import make_network, twin_of
from lqcompile.training.recipe import Network, Recipe
from lqcompile.training.rehearsal import compile_objection

_LOG = logging.getLogger(__name__)

RECIPE, REPORT, SAMPLES = "recipe.toml", "report.json", "samples.npz"
"""Further files in the folder of a run."""

SAMPLE_COUNT = 1000
"""Test images that are kept beside the exported files, for ``lqcompile verify`` and ``bench``."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a run gave, as stored in ``report.json``.

    Args:
        top1: of the finished network on all test samples, 0 to 1.
        top5: likewise.
        test_count: number of test samples.
        best_epoch: the epoch that ``best.onnx`` holds, or that was best where there is none.
        best_top1: its accuracy, chosen by the same test samples.
        seconds: of all epochs.
        files: exported files and their sizes in bytes.
    """

    top1: float
    top5: float
    test_count: int
    best_epoch: int
    best_top1: float
    seconds: float
    files: dict[str, int]


def train(
    recipe: Recipe,
    *,
    data: Path,
    output: Path,
    start: Path | None = None,
    resume: bool = False,
    device: str | None = None,
    threads: int | None = None,
    tensorboard: bool = False,
    on_step: Callable[[Step], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Report:
    """Train the network of a recipe and export it.

    Args:
        recipe: with a network.
        data: folder of the data set.
        output: folder of the run, made if it is missing.
        start: a trained float twin: the folder of its run, or a file of its weights. The network starts from these,
            and learns from the twin where the recipe distils.
        resume: go on with the run in `output`.
        device: where to train, as torch names it; None for a CUDA device if there is one, else the CPU.
        threads: CPU threads; None for torch's choice.
        tensorboard: write a log for TensorBoard as well.
        on_step: told now and then how far an epoch is.
        on_epoch: told of every epoch that is done.

    Returns:
        what is in ``report.json``.

    Raises:
        TrainingError: the folder holds another run, or as `lqcompile.training.fit` and `make_network`.
        InputError: the data set is missing or damaged.
        QuantizationError: the network cannot be quantized or exported.
        BuildError: `output` cannot be written.
    """
    if recipe.network is None:
        raise TrainingError("recipe: found no [network] section, expected one; add it, or call lqcompile.training.fit")
    if threads is not None:
        torch.set_num_threads(threads)
    target = ranks.choose_device(device)
    with ranks.processes(target):
        _prepare(output, recipe, resume=resume)
        images = load_data(recipe.data, data)
        if recipe.network.is_own and not resume:
            _rehearse(recipe.network, images)
        torch.manual_seed(recipe.seed)
        model = make_network(recipe.network, images)
        teacher = None if start is None else _start(model, recipe.network, images, start)
        log = TensorBoardLog(output) if tensorboard and ranks.rank() == 0 else None

        def told(epoch: Epoch) -> None:
            if log is not None:
                log.add(epoch)
            if on_epoch is not None:
                on_epoch(epoch)

        result = fit(
            model,
            recipe,
            images,
            folder=output,
            resume=resume,
            teacher=teacher,
            device=target,
            on_step=on_step,
            on_epoch=told,
        )
        return _export(recipe.network, images, result, output)


def _prepare(output: Path, recipe: Recipe, *, resume: bool) -> None:
    """Make the folder of a run and put the recipe into it."""
    checkpoint = output / CHECKPOINT
    if resume:
        return
    if checkpoint.exists():
        raise TrainingError(
            f"run '{output}': found a run with a checkpoint, expected a new folder; add --resume or choose another "
            "folder"
        )
    if ranks.rank() == 0:
        output.mkdir(parents=True, exist_ok=True)
        write_atomically(output / RECIPE, tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)).encode())


def _rehearse(network: Network, images: ImageData) -> None:
    """Say before the first epoch that the network will not compile; the first process does."""
    if ranks.rank() == 0 and (objection := compile_objection(network, images)) is not None:
        _LOG.warning("training: the exported network will not compile: %s", objection)


def _start(model: nn.Module, network: Network, images: ImageData, start: Path) -> nn.Module:
    """Put the weights of the float twin into `model`; gives the twin itself."""
    path = start / FINAL if start.is_dir() else start
    state = load_state(path)
    twin = make_network(twin_of(network), images)
    load_into(twin, state, path)
    load_into(model, state, path, from_twin=True)
    return twin


def _export(network: Network, images: ImageData, result: Result, output: Path) -> Report:
    """Write the ONNX files, some test samples, and the report; the first process does."""
    samples, labels = _samples(images)
    files = {}
    if ranks.rank() == 0:
        for name in (BEST, FINAL):
            integer = result.best.bases == "integer"
            if name == BEST and network.basis == "int8" and not network.is_float and not integer:
                continue  # The best epoch has float bases, which the recipe does not want exported.
            model = make_network(network, images)
            load_into(model, load_state(output / name), output / name)
            onnx = (output / name).with_suffix(".onnx")
            export(model, samples[:4], onnx)
            files[onnx.name] = onnx.stat().st_size
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=samples.numpy(), labels=labels.numpy())
        write_atomically(output / SAMPLES, buffer.getvalue())
    report = Report(
        top1=result.test.top1,
        top5=result.test.top5,
        test_count=result.test.count,
        best_epoch=result.best.epoch,
        best_top1=result.best.top1,
        seconds=sum(epoch.seconds for epoch in result.history),
        files=files,
    )
    if ranks.rank() == 0:
        write_atomically(output / REPORT, (json.dumps(asdict(report), indent=2) + "\n").encode())
    return report


def _samples(images: ImageData) -> tuple[Tensor, Tensor]:
    """The first test images as the network reads them, and their labels."""
    picks = part_order(min(SAMPLE_COUNT, len(images.test)), SAMPLE_COUNT)
    return next(iter(images.test.batches(picks, 0)))
