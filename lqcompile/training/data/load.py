"""From a folder on disk to the training and test samples of a recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lqcompile.errors import TrainingError
from lqcompile.training.data import augment, photos
from lqcompile.training.data.arrays import read_arrays
from lqcompile.training.data.folder import Folder, find_images
from lqcompile.training.data.source import UNIT, Arrays, Change, Data, Normalization
from lqcompile.training.recipe import DataOptions


@dataclass(frozen=True, kw_only=True)
class ImageData(Data):
    """The samples of a data set of images, and what is known of them.

    Args:
        shape: channels, rows and columns of an image, as the network reads it.
        classes: number of classes.
        normalization: from pixels to what the network reads.
    """

    shape: tuple[int, int, int]
    classes: int
    normalization: Normalization


def load_data(options: DataOptions, folder: str | Path) -> ImageData:
    """Read a data set.

    Args:
        options: of the recipe.
        folder: for "fashion-mnist" and "mnist" the four IDX files, compressed or not; for "cifar10" and "cifar100" the
            binary version; for "npz" ``train.npz`` and ``test.npz``, each with ``images`` uint8[N, H, W],
            [N, C, H, W] or [N, H, W, C] and ``labels`` [N]; for "folder" images as ``train/CLASS/FILE`` and
            ``val/CLASS/FILE``.

    Raises:
        InputError: a file is missing, truncated, or not what its name says.
        TrainingError: an option does not fit the data set.
    """
    if options.set == "folder":
        return _photos(options, Path(folder))
    if options.augment == "inception":
        raise TrainingError(
            f"data.augment: found 'inception' with data.set={options.set!r}, expected image folders; use 'crop-flip'"
        )
    parts = read_arrays(options.set, Path(folder))
    train_images, train_labels = parts.train
    if options.limit is not None:
        train_images, train_labels = train_images[: options.limit], train_labels[: options.limit]
    normalization = _normalization(options.normalize, train_images)
    train = Arrays(
        images=torch.from_numpy(train_images),
        labels=torch.from_numpy(train_labels),
        normalization=normalization,
        change=_change(options),
    )
    test_images, test_labels = (torch.from_numpy(array) for array in parts.test)
    _, channels, rows, columns = train_images.shape
    return ImageData(
        train=train,
        test=replace(train, images=test_images, labels=test_labels, change=None),
        shape=(channels, rows, columns),
        classes=parts.classes,
        normalization=normalization,
    )


def _photos(options: DataOptions, folder: Path) -> ImageData:
    if options.normalize == "pixel-mean":
        raise TrainingError("data.normalize: found 'pixel-mean' with data.set='folder', expected 'unit' or 'channels'")
    normalization = UNIT
    if options.normalize == "channels":
        mean, std = (torch.tensor(values)[:, None, None] for values in (photos.MEAN, photos.STD))
        normalization = Normalization(mean=mean, std=std)
    files, labels, classes = find_images(folder / "train")
    if options.limit is not None:
        # Files are sorted by class: the first ones would all be of one.
        chosen = np.random.default_rng(0).permutation(len(files))[: options.limit].tolist()
        files, labels = [files[index] for index in chosen], [labels[index] for index in chosen]
    train = Folder(
        files=tuple(files),
        labels=tuple(labels),
        normalization=normalization,
        image_size=options.image_size,
        augment=options.augment,
        workers=options.workers,
    )
    test_files, test_labels, _ = find_images(folder / "val", classes)
    return ImageData(
        train=train,
        test=replace(train, files=tuple(test_files), labels=tuple(test_labels), augment=None),
        shape=(3, options.image_size, options.image_size),
        classes=len(classes),
        normalization=normalization,
    )


def _change(options: DataOptions) -> Change | None:
    if options.augment == "crop-flip":
        return partial(augment.crop_flip, pad=options.pad)
    return augment.flip if options.augment == "flip" else None


def _normalization(kind: str, images: npt.NDArray[np.uint8]) -> Normalization:
    """From the pixels of the training set, uint8[N, C, H, W]."""
    if kind == "unit":
        return UNIT
    mean = images.mean(0, dtype=np.float64) / 255
    if kind == "pixel-mean":
        return Normalization(mean=torch.from_numpy(mean).float(), std=torch.full((1, 1, 1), 128 / 255))
    channel = mean.mean((1, 2), keepdims=True)
    # The mean of squares in integers: float copies of a whole training set would not fit everywhere.
    square = (
        np.stack([np.square(images[:, index], dtype=np.uint32).mean() for index in range(images.shape[1])]) / 255**2
    )
    std = np.sqrt(np.maximum(square[:, None, None] - channel**2, 1e-12))
    return Normalization(mean=torch.from_numpy(channel).float(), std=torch.from_numpy(std).float())
