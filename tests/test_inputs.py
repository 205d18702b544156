"""Arrays that go into a model: each thing that can be wrong with them has its message."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from lqcompile.errors import InputError
from lqcompile.inputs import check_inputs, load_inputs, load_samples, random_inputs, read_arrays

IMAGE = SimpleNamespace(name="image", shape=(1, 4, 4), dtype="float32")
EXTRA = SimpleNamespace(name="extra", shape=(3,), dtype="float32")


def ones(*shape):
    return np.ones(shape, np.float32)


def test_checked_arrays_stand_in_the_order_of_the_inputs():
    arrays = check_inputs([IMAGE, EXTRA], {"extra": ones(2, 3), "image": ones(2, 1, 4, 4)})
    assert list(arrays) == ["image", "extra"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"picture": ones(1, 1, 4, 4)}, r"input 'picture': unknown; the model's inputs are image"),
        ({}, r"input 'image': missing, expected float32\[N, 1, 4, 4\]"),
        (
            {"image": np.ones((1, 1, 4, 4))},
            r"input 'image': found dtype float64, expected float32; convert it with .astype\('float32'\)",
        ),
        ({"image": ones(1, 4, 4)}, r"input 'image': found float32\[1, 4, 4\], expected float32\[N, 1, 4, 4\]"),
        ({"image": ones(1, 1, 4, 5)}, r"found float32\[1, 1, 4, 5\], expected"),
        ({"image": ones(0, 1, 4, 4)}, r"input 'image': found no samples, expected at least one"),
    ],
)
def test_wrong_arrays(arrays, message):
    with pytest.raises(InputError, match=message):
        check_inputs([IMAGE], arrays)


def test_different_numbers_of_samples():
    with pytest.raises(InputError, match=r"found different numbers of samples \{'image': 2, 'extra': 3\}"):
        check_inputs([IMAGE, EXTRA], {"image": ones(2, 1, 4, 4), "extra": ones(3, 3)})


def test_files_by_name_and_alone(tmp_path):
    np.save(tmp_path / "a.npy", ones(2, 3))
    np.savez(tmp_path / "b.npz", image=ones(2, 1, 4, 4))
    loaded = load_inputs([str(tmp_path / "b.npz"), f"extra={tmp_path / 'a.npy'}"], [IMAGE, EXTRA])
    assert {name: array.shape for name, array in loaded.items()} == {"image": (2, 1, 4, 4), "extra": (2, 3)}
    assert list(load_inputs([str(tmp_path / "a.npy")], [EXTRA])) == ["extra"]
    with pytest.raises(
        InputError, match=r"a.npy': found no input name, expected NAME=.+a.npy with one of image, extra"
    ):
        load_inputs([str(tmp_path / "a.npy")], [IMAGE, EXTRA])


def cut_off():
    """The first half of an .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros(1000))
    return buffer.getvalue()[:4000]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", b"PK\x03\x04rest", b"text", cut_off()])
def test_unreadable_files(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    message = r"input file '.+x.npy': found a damaged file or something else \(.+\), expected a .npy or .npz file of "
    with pytest.raises(InputError, match=message + "arrays; make or copy it again$") as caught:
        read_arrays(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"x.npz': found no such file, expected a .npy or .npz file of arrays; check"):
        read_arrays(tmp_path / "x.npz")


def test_pickled_objects_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"expected a .npy or .npz file of arrays"):
        read_arrays(tmp_path / "x.npy")


@pytest.mark.parametrize("seed", range(2))
def test_uint8_images_are_scaled_and_shaped(tmp_path, seed):
    images = np.random.default_rng(seed).integers(0, 256, (5, 4, 4), dtype=np.uint8)
    np.savez(tmp_path / "s.npz", images=images, labels=np.arange(5, dtype=np.uint8))
    samples, labels = load_samples(tmp_path / "s.npz", IMAGE)
    np.testing.assert_array_equal(samples["image"], images.reshape(5, 1, 4, 4).astype(np.float32) / np.float32(255))
    assert samples["image"].dtype == np.float32
    assert labels.tolist() == [0, 1, 2, 3, 4]


def test_samples_of_other_files(tmp_path):
    np.save(tmp_path / "s.npy", ones(3, 1, 4, 4))
    np.savez(tmp_path / "one.npz", anything=ones(3, 1, 4, 4))
    for name in ("s.npy", "one.npz"):
        samples, labels = load_samples(tmp_path / name, IMAGE)
        assert samples["image"].shape == (3, 1, 4, 4)
        assert labels is None


def test_wrong_samples(tmp_path):
    path = tmp_path / "s.npz"
    np.savez(path, a=ones(1), b=ones(1))
    with pytest.raises(InputError, match=r"s.npz': found arrays a, b, expected 'image' or 'images'; rename one"):
        load_samples(path, IMAGE)
    np.savez(path, labels=ones(1))
    with pytest.raises(InputError, match=r"found arrays none, expected 'image' or 'images'"):
        load_samples(path, IMAGE)
    np.savez(path, image=ones(3, 1, 4, 4), labels=np.arange(2))
    with pytest.raises(InputError, match=r"s.npz': found 2 labels, expected 3, one for each sample"):
        load_samples(path, IMAGE)
    np.savez(path, image=np.zeros((3, 5, 5), np.uint8))
    with pytest.raises(InputError, match=r"input 'image': found float32\[3, 5, 5\], expected float32\[N, 1, 4, 4\]"):
        load_samples(path, IMAGE)


def test_random_inputs_are_reproducible_and_fit():
    whole = SimpleNamespace(name="whole", shape=(2,), dtype="int8")
    first, second = (random_inputs([IMAGE, whole], 3, seed=7) for _ in range(2))
    check_inputs([IMAGE, whole], first)
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    assert not np.array_equal(first["image"], random_inputs([IMAGE], 3, seed=8)["image"])
    with pytest.raises(InputError, match=r"random samples: found 0, expected at least 1"):
        random_inputs([IMAGE], 0, seed=0)
