"""The recipes of the paper: the figures of its authors' code, and a few steps of each kind on made-up images."""

import dataclasses

import numpy as np
import pytest
import torch
from tiny_training import data

from lqcompile.training import fit, load_data, load_recipe
from lqcompile.training.data.load import ImageData
from lqcompile.training.data.source import UNIT
from lqcompile.training.networks import make_network
from lqcompile.training.schedule import learning_rate

LONG = ((0, 0.1), (29.9, 0.1), (30, 1e-2), (60, 1e-3), (85, 1e-4), (95, 1e-5), (105, 1e-6), (109.9, 1e-6))
SHORT = ((0, 0.1), (32, 0.1 / 2 + 1e-5 / 2))
IMAGENET = {"batch": 256, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-5}

PAPER = {
    **{f"imagenet-resnet{depth}": (110, LONG, IMAGENET) for depth in (18, 34, 50)},
    **{f"imagenet-{name}": (64, SHORT, IMAGENET) for name in ("alexnet", "densenet121", "googlenet", "vgg")},
    "cifar10-vgg-small": (
        400,
        ((0, 0.02), (79.9, 0.02), (80, 2e-3), (160, 2e-4), (300, 2e-5), (399.9, 2e-5)),
        {"batch": 100, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4},
    ),
}
"""Epochs, learning rates at some of them, and the rest of SGD: github.com/microsoft/LQ-Nets, imagenet.py (with and
without --data_aug) and cifar10-vgg-small.py."""


@pytest.mark.parametrize("name", PAPER)
def test_figures_of_the_authors(name):
    recipe = load_recipe(name)
    epochs, rates, rest = PAPER[name]
    assert (recipe.epochs, recipe.optimizer.kind, recipe.precision, recipe.ema_decay) == (epochs, "sgd", "float32", 0)
    optimizer = recipe.optimizer
    assert rest == {
        "batch": recipe.data.batch,
        "momentum": optimizer.momentum,
        "nesterov": optimizer.nesterov,
        "weight_decay": optimizer.weight_decay,
    }
    found = [learning_rate(recipe, round(epoch * 10), 10) for epoch, _ in rates]
    assert found == pytest.approx([rate for _, rate in rates], rel=1e-9)
    # First and last layer in float, learned codes of two bits with float bases and no last phase.
    network = recipe.network
    assert (network.edge_bits, network.weight_bits, network.act_bits, network.basis) == (32, 2, 2, "float")
    assert recipe.snap is None


def test_a_cifar_recipe_trains(tmp_path, seed):
    """From files in CIFAR's form; fewer epochs, images and channels, otherwise the recipe."""
    rng = np.random.default_rng(seed)
    for file in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = rng.integers(0, 256, (20, 1 + 3 * 32 * 32), dtype=np.uint8)
        records[:, 0] = rng.integers(0, 10, 20)
        (tmp_path / file).write_bytes(records.tobytes())
    changes = ["epochs=2", "schedule.milestones=[1]", "network.options.width=0.05", "data.limit=40", "data.batch=20"]
    recipe = load_recipe("cifar10-vgg-small", changes)
    images = load_data(recipe.data, tmp_path)
    torch.manual_seed(seed)
    result = fit(make_network(recipe.network, images), recipe, images)
    assert (len(images.train), result.test.count) == (40, 20)
    assert [epoch.lr for epoch in result.history] == pytest.approx([recipe.optimizer.lr, recipe.optimizer.lr / 10])


@pytest.mark.parametrize("name", ["imagenet-resnet18", "imagenet-alexnet"])
def test_imagenet_recipes_take_steps(name, seed):
    """Narrow networks on images of 64x64, one recipe of each of the authors' two kinds."""
    recipe = load_recipe(name)
    options = recipe.network.options | {"width": 0.05}
    torch.manual_seed(seed)
    images, labels = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8), torch.randint(0, 5, (8,))
    part = dataclasses.replace(data(seed).test, images=images, labels=labels)
    known = ImageData(train=part, test=part, shape=(3, 64, 64), classes=5, normalization=UNIT)
    model = make_network(recipe.network.model_copy(update={"options": options}), known)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    schedule = recipe.schedule.model_copy(update={"milestones": (1,)} if recipe.schedule.milestones else {})
    short = recipe.model_copy(
        update={"epochs": 2, "schedule": schedule, "data": recipe.data.model_copy(update={"batch": 4})}
    )
    result = fit(model, short, known)
    assert np.isfinite([epoch.loss for epoch in result.history]).all() and len(result.history) == 2
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert {key for key in before if key.endswith(".basis")} <= moved
