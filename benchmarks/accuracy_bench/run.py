"""One run: from the float twin of its seed to a row of the table."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accuracy_bench.matrix import FLOAT, Case, Form
from accuracy_bench.records import Record
from lqcompile import cpu, models
from lqcompile.nn import calibrate, quantize, snap
from lqcompile.nn.int8 import Int8Activation
from lqcompile.training import Arrays, Data, DataOptions, Optimizer, Recipe, Schedule, evaluate, fit, load_data
from lqcompile.training.data.order import mix
from lqcompile.training.evaluation import estimate_statistics

BATCH = 128

TWIN_RATE = 0.1
"""Highest learning rate of the float twin, which starts from fresh weights."""

WEIGHT_DECAY = 5e-4
"""As the paper has it for VGG-Small on CIFAR-10."""

BN_BATCHES = 20
"""Training batches that the batch normalization statistics of every finished network come from."""

CALIBRATION_BATCHES, CALIBRATION_PASSES = 8, 5


def load(folder: Path, image_size: int) -> Data:
    """Fashion-MNIST in memory, mirrored and shifted by up to a pixel for training, averaged down to `image_size`.

    Raises:
        InputError: a file is missing, truncated or not what its name says.
    """
    data = load_data(DataOptions(set="fashion-mnist", batch=BATCH, augment="crop-flip", pad=1), folder)
    return Data(train=_shrunk(data.train, image_size), test=_shrunk(data.test, image_size))


def _shrunk(source: object, image_size: int) -> Arrays:
    if not isinstance(source, Arrays):
        raise TypeError(f"samples: found {type(source).__name__}, expected images in memory")
    pooled = F.adaptive_avg_pool2d(source.images.float(), image_size).round().to(torch.uint8)
    return replace(source, images=pooled)


def recipe(epochs: int, lr: float, seed: int) -> Recipe:
    """SGD with Nesterov momentum, a short warm-up and half a cosine; the same for every method but for `lr`."""
    return Recipe(
        epochs=epochs,
        seed=seed,
        data=DataOptions(set="fashion-mnist", batch=BATCH),
        optimizer=Optimizer(kind="sgd", lr=lr, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY),
        schedule=Schedule(kind="cosine", warmup_epochs=0.1),
        bn_batches=BN_BATCHES,
    )


def float_twin(network: str, form: Form, data: Data, seed: int, cache: Path) -> nn.Module:
    """The trained float network of a seed, from `cache` where it is there; a run that was stopped goes on."""
    torch.manual_seed(seed)
    model = models.create(
        network, weight_bits=None, in_channels=1, image_size=form.image_size, width=form.width, classes=10
    )
    folder = cache / f"{network}-{form.width}-{form.image_size}-{form.twin_epochs}-{len(data.train)}-{seed}"
    if not (folder / "final.pt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        resume = (folder / "checkpoint.pt").exists()
        fit(model, recipe(form.twin_epochs, TWIN_RATE, seed), data, folder=folder, resume=resume)
    model.load_state_dict(torch.load(folder / "final.pt", weights_only=True))
    return model


def run_case(case: Case, data: Data, cache: Path) -> Record:
    """Train one network and test it.

    Args:
        case: which.
        data: training and test images of the size that the form asks for.
        cache: folder of the float twins.
    """
    form = case.form
    model = float_twin(case.network, form, data, case.seed, cache)
    twin = accuracy(model, data)
    start = time.perf_counter()
    calibrated = None
    if case.method != FLOAT:
        calibrated = calibrated_accuracy(copy.deepcopy(model), case, data)
        prepare(model, case, data)
    result = fit(model, recipe(form.epochs, case.lr, case.seed), data)
    seconds = time.perf_counter() - start
    torch.save(model.state_dict(), state_file(case, cache))
    ablations = ablate(model, data, mix(case.seed, form.epochs)) if case.method == "lq" else (None, None, None)
    return Record(
        network=case.network,
        width=form.width,
        image_size=form.image_size,
        setting=case.setting,
        weight_bits=case.bits[0],
        act_bits=case.bits[1],
        method=case.method,
        seed=case.seed,
        twin_epochs=form.twin_epochs,
        epochs=form.epochs,
        lr=case.lr,
        batch=BATCH,
        train_images=len(data.train),
        twin=twin,
        calibrated=calibrated,
        top1=round(100 * result.test.top1, 2),
        integer_bases=ablations[0],
        edges8=ablations[1],
        integer_all=ablations[2],
        seconds=round(seconds, 1),
        machine=cpu.cpu_name(),
        torch=torch.__version__,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
    )


def calibrated_accuracy(model: nn.Module, case: Case, data: Data) -> float:
    """Accuracy in percent of the twin `model`, quantized and calibrated: `lqcompile.calibrate` and nothing else."""
    convert(model, case)
    calibrate(model, calibration_images(data), max_passes=CALIBRATION_PASSES)
    return accuracy(model, data)


def prepare(model: nn.Module, case: Case, data: Data) -> None:
    """Make the twin `model` what training starts from, alike for every method.

    First batch normalization is told of the quantized weights, which DoReFa scales to -1..1 in every layer; then bases
    and steps are fitted to the activations that follow from it.
    """
    weights_only = copy.deepcopy(model)
    quantize(weights_only, case.bits[0], None, method=case.method)  # type: ignore[arg-type]
    estimate_statistics(weights_only, data.train, batches=BN_BATCHES, batch=BATCH, seed=case.seed)
    convert(model, case)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.load_state_dict(weights_only.get_submodule(name).state_dict())
    calibrate(model, calibration_images(data), max_passes=CALIBRATION_PASSES)


def convert(model: nn.Module, case: Case) -> None:
    """Quantize in place as the case says; first and last layer stay in float."""
    weight_bits, act_bits = case.bits
    quantize(model, weight_bits, None if act_bits == 32 else act_bits, method=case.method)  # type: ignore[arg-type]


def state_file(case: Case, cache: Path) -> Path:
    """Where the finished network of a run is kept."""
    name = f"{case.network}-{case.form.width}-{case.form.epochs}-{case.setting}-{case.method}-{case.seed}-{case.lr}.pt"
    return cache / name.replace("/", "-")


def finished(case: Case, data: Data, cache: Path) -> nn.Module:
    """The finished network of a run, which is run first where `cache` does not have it."""
    if not state_file(case, cache).exists():
        run_case(case, data, cache)
    model = float_twin(case.network, case.form, data, case.seed, cache)
    convert(model, case)
    model.load_state_dict(torch.load(state_file(case, cache), weights_only=True))
    return model.eval()


def calibration_images(data: Data) -> list[Tensor]:
    """The first training images, without augmentation: batches of float32[N, 1, H, W]."""
    train = data.train
    if not isinstance(train, Arrays):
        raise TypeError(f"samples: found {type(train).__name__}, expected images in memory")
    picks = torch.arange(min(len(train), CALIBRATION_BATCHES * BATCH)).split(BATCH)
    return [images for images, _ in replace(train, change=None).batches(picks, seed=0)]


def ablate(model: nn.Module, data: Data, seed: int) -> tuple[float, float, float]:
    """Accuracy in percent with integer bases, with 8-bit first and last layers, with both; nothing is trained on.

    The statistics of batch normalization are estimated anew, with `seed` of `fit` from the same batches as at its end.
    """
    found = []
    for integer, edges in ((True, False), (False, True), (True, True)):
        variant = copy.deepcopy(model)
        if edges:
            # The low-bit layers are no plain convolutions any more: only the first and the last layer are left.
            quantize(variant, edge_bits=8)
            observe_ranges(variant, calibration_images(data))
        if integer:
            snap(variant)
        estimate_statistics(variant, data.train, batches=BN_BATCHES, batch=BATCH, seed=seed)
        found.append(accuracy(variant, data))
    return found[0], found[1], found[2]


@torch.no_grad()
def observe_ranges(model: nn.Module, batches: list[Tensor]) -> None:
    """Set the input ranges of 8-bit layers and leave all else as it is."""
    model.eval()
    for module in model.modules():
        if isinstance(module, Int8Activation):
            module.train()
    for images in batches:
        model(images)
    model.eval()


def accuracy(model: nn.Module, data: Data) -> float:
    """Of the test images, in percent."""
    return round(100 * evaluate(model, data.test, batch=500).top1, 2)
