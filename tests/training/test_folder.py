import numpy as np
import pytest
import torch
from PIL import Image

from lqcompile.errors import InputError, TrainingError
from lqcompile.training import DataOptions, load_data
from lqcompile.training.data import photos


@pytest.fixture
def photographs(tmp_path, seed):
    """Two classes, images of different sizes and modes, as ``train/CLASS/*`` and ``val/CLASS/*``."""
    rng = np.random.default_rng(seed)
    for part in ("train", "val"):
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(3):
                rows, columns = rng.integers(20, 60, 2)
                image = Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8))
                image = image.convert("L") if index == 2 else image
                image.save(tmp_path / part / name / f"{index}.png")
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    return tmp_path


def read(source, seed=0):
    picks = list(torch.arange(len(source)).split(4))
    batches = list(source.batches(picks, seed))
    return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip", "inception"])
def test_images_do_not_depend_on_the_workers(photographs, augment):
    options = {"set": "folder", "image_size": 16, "augment": augment, "normalize": "channels"}
    alone, shared = (load_data(DataOptions(workers=workers, **options), photographs) for workers in (0, 2))
    assert (alone.shape, alone.classes, len(alone.train), len(alone.test)) == ((3, 16, 16), 2, 6, 6)
    images, labels = read(alone.train)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] and images.dtype == torch.float32
    if augment == "inception":  # once is enough: starting workers takes a second
        assert torch.equal(read(shared.train)[0], images)
    assert torch.equal(read(alone.train, seed=1)[0], images) == (augment == "none")
    assert torch.equal(read(alone.test, seed=1)[0], read(alone.test)[0])


def test_the_middle_of_the_image(seed):
    """A square image of the size before the crop is only cropped."""
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    found = photos.for_test(Image.fromarray(pixels), 14)
    assert np.array_equal(found, pixels[1:15, 1:15].astype(np.float32))
    tall = photos.for_test(Image.fromarray(pixels).resize((16, 40)), 14)
    assert tall.shape == (14, 14, 3)


def test_areas_fit_thin_images(seed):
    rng = np.random.default_rng(seed)
    for shape in ((3, 90), (90, 3), (5, 5)):
        image = Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        assert photos.random_area(image, 8, rng).size == (8, 8)


def test_jitter_keeps_what_each_part_must_keep(seed):
    """A gray image stays gray but for the light; the middle of the light is no change."""
    rng = np.random.default_rng(seed)
    gray = np.repeat(rng.uniform(50, 200, (6, 6, 1)), 3, axis=2).astype(np.float32)
    changed = photos.jitter(gray, rng)
    spread = changed - changed.mean((0, 1))
    np.testing.assert_allclose(spread, np.repeat(spread[:, :, :1], 3, axis=2), rtol=1e-3, atol=1e-2)
    assert not np.allclose(changed, gray)


def test_limit_takes_all_classes(photographs):
    found = load_data(DataOptions(set="folder", limit=5, workers=0), photographs)
    assert len(found.train) == 5 and len(found.test) == 6 and set(found.train.labels) == {0, 1}


def test_folders_that_do_not_fit(photographs):
    options = DataOptions(set="folder", image_size=16, workers=0)
    (photographs / "train" / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"ant/0\.png: cannot read it as an image \(.*\); replace or remove the file$"):
        read(load_data(options, photographs).train)
    (photographs / "val" / "cat").mkdir()
    with pytest.raises(InputError, match="val: found class 'cat', expected only classes that are in the training part"):
        load_data(options, photographs)
    with pytest.raises(
        InputError, match="train: found no such folder, expected one with a folder of images for each cl"
    ):
        load_data(options, photographs / "elsewhere")
    (photographs / "empty" / "train").mkdir(parents=True)
    with pytest.raises(InputError, match="train: found no images, expected folders of them, one for each class"):
        load_data(options, photographs / "empty")
    with pytest.raises(TrainingError, match=r"^data\.normalize: found 'pixel-mean' with data\.set='folder', expected"):
        load_data(DataOptions(set="folder", normalize="pixel-mean"), photographs)
