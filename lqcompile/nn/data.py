"""Fashion-MNIST from its IDX files (Debian package ``dataset-fashion-mnist``, or any folder with the four files)."""

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


def load_fashion_mnist(
    part: Literal["train", "test"], folder: Path | str = DEBIAN_FOLDER
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images and labels of one part.

    Args:
        part: "train" (60,000 images) or "test" (10,000).
        folder: holds ``train-images-idx3-ubyte.gz`` and its like.

    Returns:
        images uint8[N, 28, 28], labels uint8[N] in 0..9.

    Raises:
        InputError: a file is missing, truncated or not what its name says.
    """
    prefix = Path(folder) / _PREFIX[part]
    images = read_idx(prefix.with_name(f"{prefix.name}-images-idx3-ubyte.gz"))
    labels = read_idx(prefix.with_name(f"{prefix.name}-labels-idx1-ubyte.gz"))
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise InputError(
            f"{folder} ({part}): found images {images.shape} and labels {labels.shape}, expected [N, 28, 28] and [N]"
        )
    return images, labels


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """Read one gzip-compressed IDX file of unsigned bytes.

    The format: two zero bytes, 8 for uint8, the number of dimensions, their sizes as big-endian int32, the data.

    Returns:
        uint8 of the shape that the file states.

    Raises:
        InputError: the file is missing, truncated, not gzip or not IDX.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; install the Debian package dataset-fashion-mnist or give the folder with its files"
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot read it as gzip ({error}); fetch the file again") from error
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
