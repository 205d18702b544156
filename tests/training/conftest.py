import gzip

import numpy as np
import pytest

pytest.importorskip("torch")


@pytest.fixture
def write_idx():
    """Writes an array as an IDX file, compressed where its name says so."""

    def write(path, array):
        content = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)

    return write


@pytest.fixture
def write_part(write_idx):
    """Writes random images and labels as one part of Fashion-MNIST, and returns them."""

    def write(folder, prefix, count, rng, suffix=".gz"):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
        return images, labels

    return write
