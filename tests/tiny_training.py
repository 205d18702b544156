"""A network and data small enough for tests, as files too: ``tiny_training.py:make`` is a network of one's own."""

import numpy as np
import torch
from torch import nn

from lqcompile.training import Arrays, Data, DataOptions, Optimizer, Recipe


def make():
    """Two convolutions and a linear layer for 1x8x8."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(128, 3)),
    )


def arrays(seed, count):
    """Images that differ by class, so that there is something to learn: uint8[N, 8, 8], int64[N]."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    images = rng.integers(0, 128, (count, 8, 8))
    images[np.arange(count), labels] += 100
    return images.astype(np.uint8), labels


def data(seed, count=96, **options):
    """Training and test samples."""
    parts = []
    for part in range(2):
        images, labels = arrays(seed + part, count)
        parts.append((torch.from_numpy(images)[:, None], torch.from_numpy(labels)))
    (train, train_labels), (test, test_labels) = parts
    return Data(
        train=Arrays(images=train, labels=train_labels, **options), test=Arrays(images=test, labels=test_labels)
    )


def recipe(**changes):
    """Three epochs of SGD in batches of 32."""
    values = {"epochs": 3, "data": DataOptions(set="npz", batch=32), "optimizer": Optimizer(lr=0.05)}
    return Recipe(**(values | changes))
