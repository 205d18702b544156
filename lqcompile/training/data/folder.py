"""Image folders, as ImageNet comes: ``train/CLASS/*.JPEG`` and ``val/CLASS/*.JPEG``, read by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lqcompile.errors import InputError
from lqcompile.training.data import photos
from lqcompile.training.data.source import Batch, Normalization

SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Image files of known classes.

    Args:
        files: paths of the images.
        labels: class of each.
        normalization: what the network reads, of pixels / 255.
        image_size: rows and columns of what the network reads.
        augment: random changes, see `lqcompile.training.recipe.DataOptions`; None for the images of a test.
        workers: processes that read; 0 reads in this one.
    """

    files: tuple[Path, ...]
    labels: tuple[int, ...]
    normalization: Normalization
    image_size: int
    augment: Literal["none", "flip", "crop-flip", "inception"] | None
    workers: int = 0

    def __len__(self) -> int:
        """Number of images."""
        return len(self.files)

    def batches(self, picks: Sequence[Tensor], seed: int) -> Iterator[Batch]:
        """See `Source`; the changes of an image do not depend on the number of workers.

        Raises:
            InputError: a file is no image.
        """
        loader: DataLoader[Any] = DataLoader(
            _Items(self, seed),
            batch_sampler=[pick.tolist() for pick in picks],
            num_workers=self.workers,
            collate_fn=list,
        )
        for items in loader:
            for item in items:
                if isinstance(item, str):
                    raise InputError(item)
            images, labels = zip(*items, strict=True)
            yield torch.stack(images), torch.tensor(labels)


class _Items(Dataset[tuple[Tensor, int] | str]):
    """The images of one epoch; an error is an item too: torch would give it the traceback of a worker for a message."""

    def __init__(self, folder: Folder, seed: int) -> None:
        self.folder, self.seed = folder, seed

    def __getitem__(self, index: int) -> tuple[Tensor, int] | str:
        folder, path = self.folder, self.folder.files[index]
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except (OSError, SyntaxError) as error:
            return f"{path}: cannot read it as an image ({' '.join(str(error).split())}); replace or remove the file"
        if folder.augment is None:
            pixels = photos.for_test(image, folder.image_size)
        else:
            rng = np.random.default_rng([self.seed, index])
            pixels = photos.for_training(image, folder.image_size, folder.augment, rng)
        tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return folder.normalization(tensor), folder.labels[index]


def find_images(folder: Path, classes: Sequence[str] | None = None) -> tuple[list[Path], list[int], list[str]]:
    """Images and classes of one part: a folder for each class, in alphabetical order.

    Args:
        folder: the part.
        classes: names that the folders must have; None takes those that are there.

    Returns:
        files, their labels, the names of the classes.

    Raises:
        InputError: the folder is missing, a class is unknown, or there are no images.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: found no such folder, expected one with a folder of images for each class")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    known = names if classes is None else list(classes)
    files: list[Path] = []
    labels: list[int] = []
    for name in names:
        if name not in known:
            raise InputError(f"{folder}: found class '{name}', expected only classes that are in the training part")
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        files += found
        labels += [known.index(name)] * len(found)
    if not files:
        raise InputError(
            f"{folder}: found no images, expected folders of them, one for each class ({', '.join(SUFFIXES)})"
        )
    return files, labels, known
