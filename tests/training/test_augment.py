import numpy as np
import torch

from lqcompile.training.data import augment


def test_crops_are_shifts_and_flips_are_mirrors(seed):
    images = torch.randint(1, 256, (40, 3, 6, 7), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(seed)
    changed = augment.crop_flip(images, generator, 2).numpy()
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)))
    shifts, mirrored = set(), 0
    for index, image in enumerate(changed):
        found = [
            (top, left, flipped)
            for top in range(5)
            for left in range(5)
            for flipped in (False, True)
            if np.array_equal(padded[index, :, top : top + 6, left : left + 7], image[:, :, ::-1] if flipped else image)
        ]
        assert len(found) == 1, found
        shifts.add(found[0][:2])
        mirrored += found[0][2]
    # Each image by a draw of its own: chances of failure are below 1e-9.
    assert len(shifts) > 3 and 0 < mirrored < 40
    again = augment.crop_flip(images, torch.Generator().manual_seed(seed), 2)
    assert np.array_equal(again.numpy(), changed)
