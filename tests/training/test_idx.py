import gzip

import numpy as np
import pytest

from lqcompile.errors import InputError
from lqcompile.training.data.idx import load_idx_images, read_idx


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_round_trip(tmp_path, write_part, seed, suffix):
    rng = np.random.default_rng(seed)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images, labels = write_part(tmp_path, prefix, 7, rng, suffix)
        found = load_idx_images(part, tmp_path)
        assert np.array_equal(found[0], images) and np.array_equal(found[1], labels)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"-images-idx3-ubyte\.gz: no such file; install the Debian package dataset-"):
        load_idx_images("train", tmp_path)


def test_truncated_gzip(tmp_path, write_idx):
    path = tmp_path / "x.gz"
    write_idx(path, np.arange(200, dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"x.gz: cannot read it \(.*\); fetch the file again"):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"found header '', expected 000008 \(IDX of unsigned bytes\)"),
        (b"\0\0\x0d\1\0\0\0\1x", "found header '00000d01', expected 000008"),
        (b"\0\0\x08\1\0\0\0\3ab", "found 2 bytes of data, expected 3; fetch it again"),
        (b"\0\0\x08\2\0\0\0\3", "found header of 8 bytes, expected 12; fetch it again"),
    ],
)
@pytest.mark.parametrize("name", ["x", "x.gz"])
def test_not_idx(tmp_path, content, message, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if path.suffix else content)
    with pytest.raises(InputError, match=message):
        read_idx(path)


def test_not_gzip(tmp_path):
    (tmp_path / "x.gz").write_bytes(b"hello")
    with pytest.raises(InputError, match="cannot read it"):
        read_idx(tmp_path / "x.gz")


def test_labels_that_do_not_fit_the_images(tmp_path, write_idx, write_part):
    write_part(tmp_path, "train", 5, np.random.default_rng(0))
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(4, np.uint8))
    with pytest.raises(InputError, match=r"\(train\): found images \(5, 28, 28\) and labels \(4,\), expected"):
        load_idx_images("train", tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.full(5, 10, np.uint8))
    with pytest.raises(InputError, match=r"\(train\): found label 10, expected 0 to 9"):
        load_idx_images("train", tmp_path)
