import numpy as np
import pytest
import torch

from lqcompile.errors import InputError, TrainingError
from lqcompile.training import DataOptions, load_data


def batch(source):
    return next(iter(source.batches([torch.arange(len(source))], 0)))


def write_npz(folder, rng, train, test, classes=4):
    parts = {}
    for name, shape in (("train", train), ("test", test)):
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        labels = np.arange(shape[0]) % classes
        np.savez(folder / f"{name}.npz", images=images, labels=labels)
        parts[name] = images, labels
    return parts


def write_cifar(folder, rng, names, label_bytes, classes):
    records = {}
    for name in names:
        record = rng.integers(0, 256, (5, label_bytes + 3072), dtype=np.uint8)
        record[:, label_bytes - 1] = rng.integers(0, classes, 5)
        (folder / name).write_bytes(record.tobytes())
        records[name] = record
    return records


TEN = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
HUNDRED = ["train.bin", "test.bin"]


@pytest.mark.parametrize(("name", "files", "label_bytes"), [("cifar10", TEN, 1), ("cifar100", HUNDRED, 2)])
def test_cifar(seed, tmp_path, name, files, label_bytes):
    classes = int(name.removeprefix("cifar"))
    records = write_cifar(tmp_path, np.random.default_rng(seed), files, label_bytes, classes)
    found = load_data(DataOptions(set=name), tmp_path)
    assert (found.shape, found.classes) == ((3, 32, 32), classes)
    for source, chosen in ((found.train, files[:-1]), (found.test, files[-1:])):
        content = np.concatenate([records[file] for file in chosen])
        images, labels = batch(source)
        pixels = content[:, label_bytes:].reshape(-1, 3, 32, 32)
        assert np.array_equal(images.numpy(), pixels.astype(np.float32) / np.float32(255))
        assert np.array_equal(labels.numpy(), content[:, label_bytes - 1])


def test_cifar_that_is_damaged(seed, tmp_path):
    rng = np.random.default_rng(seed)
    with pytest.raises(
        InputError, match=r"data_batch_1.bin: cannot read it \(No such file.*\); give the folder with the b"
    ):
        load_data(DataOptions(set="cifar10"), tmp_path)
    write_cifar(tmp_path, rng, HUNDRED, 2, 100)
    (tmp_path / "test.bin").write_bytes(bytes(3074 + 5))
    with pytest.raises(InputError, match=r"test.bin: found 3079 bytes, expected a multiple of 3074; fetch it again"):
        load_data(DataOptions(set="cifar100"), tmp_path)
    write_cifar(tmp_path, rng, TEN, 1, 10)
    (tmp_path / "test_batch.bin").write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(InputError, match="found label 10, expected 0 to 9; fetch it again"):
        load_data(DataOptions(set="cifar10"), tmp_path)


@pytest.mark.parametrize("shape", [(9, 8), (1, 9, 8), (9, 8, 3), (3, 9, 8)])
def test_npz(seed, tmp_path, shape):
    parts = write_npz(tmp_path, np.random.default_rng(seed), (20, *shape), (12, *shape))
    found = load_data(DataOptions(set="npz", limit=7), tmp_path)
    assert (len(found.train), len(found.test), found.classes) == (7, 12, 4)
    for source, name in ((found.train, "train"), (found.test, "test")):
        wanted, labels = (part[: len(source)] for part in parts[name])
        wanted = wanted[:, None] if wanted.ndim == 3 else wanted.transpose(0, 3, 1, 2) if shape[-1] == 3 else wanted
        images, found_labels = batch(source)
        assert np.array_equal(images.numpy(), wanted.astype(np.float32) / np.float32(255))
        assert np.array_equal(found_labels.numpy(), labels)
    assert found.shape == tuple(wanted.shape[1:])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.zeros(2)}, "train.npz: found x, expected arrays 'images' and 'labels'"),
        (
            {"images": np.zeros((2, 4, 4)), "labels": np.zeros(2, int)},
            r"found images float64\[2, 4, 4\], expected uint8",
        ),
        ({"images": np.zeros((2, 4), np.uint8), "labels": np.zeros(2, int)}, r"found images uint8\[2, 4\], expected"),
        (
            {"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(3, int)},
            r"labels int64\[3\], expected 2 integers",
        ),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2)}, r"labels float64\[2\], expected 2 integers"),
    ],
)
def test_npz_that_does_not_fit(tmp_path, content, message):
    np.savez(tmp_path / "train.npz", **content)
    with pytest.raises(InputError, match=message):
        load_data(DataOptions(set="npz"), tmp_path)


def test_parts_of_different_shapes(tmp_path):
    write_npz(tmp_path, np.random.default_rng(0), (4, 8, 8), (4, 8, 9))
    with pytest.raises(
        InputError, match=r"found training images of shape \(1, 8, 8\) and test images of shape \(1, 8, 9\)"
    ):
        load_data(DataOptions(set="npz"), tmp_path)


@pytest.mark.parametrize("kind", ["unit", "channels", "pixel-mean"])
def test_normalization(seed, tmp_path, kind):
    parts = write_npz(tmp_path, np.random.default_rng(seed), (30, 3, 6, 6), (9, 3, 6, 6))
    found = load_data(DataOptions(set="npz", normalize=kind), tmp_path)
    train, test = (parts[name][0].astype(np.float64) for name in ("train", "test"))
    if kind == "unit":
        wanted = test / 255
    elif kind == "channels":
        wanted = (test - train.mean((0, 2, 3), keepdims=True)) / train.std((0, 2, 3), keepdims=True)
    else:
        wanted = (test - train.mean(0)) / 128
    np.testing.assert_allclose(batch(found.test)[0].numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_options_for_folders_only(tmp_path):
    with pytest.raises(
        TrainingError, match=r"^data\.augment: found 'inception' with data\.set='npz', expected image fol"
    ):
        load_data(DataOptions(set="npz", augment="inception"), tmp_path)
