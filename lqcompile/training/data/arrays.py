"""Image sets that fit into memory, as one form of arrays: MNIST and its like, CIFAR, and NumPy files of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lqcompile.errors import InputError
from lqcompile.inputs import read_arrays as read_numpy
from lqcompile.training.data.idx import load_idx_images

Part = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]
"""Images uint8[N, C, H, W], labels int64[N]."""

CIFAR_SHAPE = (3, 32, 32)
"""Channels, rows and columns of a CIFAR image."""


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Both parts of a data set.

    Args:
        train: to learn from.
        test: to test with.
        classes: number of classes; labels are below it.
    """

    train: Part
    test: Part
    classes: int


def read_arrays(kind: str, folder: Path) -> Parts:
    """Read a data set whole.

    Args:
        kind: "fashion-mnist", "mnist", "cifar10", "cifar100" or "npz".
        folder: where its files are.

    Raises:
        InputError: a file is missing, truncated, or not what its name says, or the parts do not fit each other.
    """
    if kind in ("fashion-mnist", "mnist"):
        train, test = (_from_idx(part, folder) for part in ("train", "test"))
        return Parts(train=train, test=test, classes=10)
    if kind == "cifar10":
        names = [f"data_batch_{number}.bin" for number in range(1, 6)]
        train = _from_cifar([folder / name for name in names], label_bytes=1, classes=10)
        return Parts(train=train, test=_from_cifar([folder / "test_batch.bin"], label_bytes=1, classes=10), classes=10)
    if kind == "cifar100":
        # Two bytes of label: the coarse class, then the fine one.
        train, test = (_from_cifar([folder / name], label_bytes=2, classes=100) for name in ("train.bin", "test.bin"))
        return Parts(train=train, test=test, classes=100)
    train, test = (_from_npz(folder / name) for name in ("train.npz", "test.npz"))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise InputError(
            f"{folder}: found training images of shape {train[0].shape[1:]} and test images of shape "
            f"{test[0].shape[1:]}, expected the same"
        )
    return Parts(train=train, test=test, classes=1 + max(int(labels.max()) for _, labels in (train, test)))


def _from_idx(part: str, folder: Path) -> Part:
    images, labels = load_idx_images("train" if part == "train" else "test", folder)
    return images[:, None], labels.astype(np.int64)


def _from_cifar(paths: list[Path], *, label_bytes: int, classes: int) -> Part:
    """Records of label and pixels: red, green and blue planes, row by row (the data set's own description)."""
    pixels = int(np.prod(CIFAR_SHAPE))
    record = label_bytes + pixels
    parts = []
    for path in paths:
        try:
            content = np.frombuffer(path.read_bytes(), np.uint8)
        except OSError as error:
            raise InputError(
                f"{path}: cannot read it ({error.strerror}); give the folder with the binary version of CIFAR"
            ) from error
        if not content.size or content.size % record:
            raise InputError(f"{path}: found {content.size} bytes, expected a multiple of {record}; fetch it again")
        parts.append(content.reshape(-1, record))
    records = np.concatenate(parts)
    labels = records[:, label_bytes - 1].astype(np.int64)
    if labels.max() >= classes:
        raise InputError(f"{paths[0].parent}: found label {labels.max()}, expected 0 to {classes - 1}; fetch it again")
    return records[:, label_bytes:].reshape(-1, *CIFAR_SHAPE).copy(), labels


def _from_npz(path: Path) -> Part:
    content = read_numpy(path)
    if not isinstance(content, dict) or not {"images", "labels"} <= set(content):
        held = ", ".join(content) if isinstance(content, dict) else "one array"
        raise InputError(f"{path}: found {held}, expected arrays 'images' and 'labels' in an .npz file")
    images, labels = content["images"], content["labels"]
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or not len(images):
        raise InputError(
            f"{path}: found images {images.dtype}{list(images.shape)}, expected uint8 [N, H, W], [N, C, H, W] or "
            "[N, H, W, C]"
        )
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[1] > 4 >= images.shape[3]:
        images = images.transpose(0, 3, 1, 2)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise InputError(
            f"{path}: found labels {labels.dtype}{list(labels.shape)}, expected {len(images)} integers from 0 on"
        )
    return np.ascontiguousarray(images), labels.astype(np.int64)
