"""MNIST, Fashion-MNIST and their like from IDX files (Debian package ``dataset-fashion-mnist``, or any folder)."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from lqcompile.errors import InputError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package puts the files."""

_PREFIX = {"train": "train", "test": "t10k"}


def load_idx_images(
    part: Literal["train", "test"], folder: Path | str = DEBIAN_FOLDER
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images and labels of one part.

    Args:
        part: "train" (60,000 images in MNIST and Fashion-MNIST) or "test" (10,000).
        folder: holds ``train-images-idx3-ubyte`` and its like, as they are or with ``.gz``.

    Returns:
        images uint8[N, H, W], labels uint8[N] in 0..9.

    Raises:
        InputError: a file is missing, truncated or not what its name says.
    """
    prefix = _PREFIX[part]
    images = read_idx(_find(Path(folder), f"{prefix}-images-idx3-ubyte"))
    labels = read_idx(_find(Path(folder), f"{prefix}-labels-idx1-ubyte"))
    if images.ndim != 3 or labels.shape != images.shape[:1] or not len(images):
        raise InputError(
            f"{folder} ({part}): found images {images.shape} and labels {labels.shape}, expected [N, 28, 28] and [N]"
        )
    if labels.max() > 9:
        raise InputError(f"{folder} ({part}): found label {labels.max()}, expected 0 to 9; fetch the files again")
    return images, labels


def _find(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes, compressed with gzip where its name ends in ``.gz``.

    The format: two zero bytes, 8 for uint8, the number of dimensions, their sizes as big-endian int32, the data.

    Returns:
        uint8 of the shape that the file states.

    Raises:
        InputError: the file is missing, truncated, not gzip or not IDX.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; install the Debian package dataset-fashion-mnist or give the folder with its files"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read it ({error}); fetch the file again") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise InputError(f"{path}: found header {content[:4].hex()!r}, expected 000008 (IDX of unsigned bytes)")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise InputError(f"{path}: found header of {len(content)} bytes, expected {header}; fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(content[4:header], dtype=">i4"))
    expected = int(np.prod(shape))
    if len(content) - header != expected:
        raise InputError(f"{path}: found {len(content) - header} bytes of data, expected {expected}; fetch it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()
