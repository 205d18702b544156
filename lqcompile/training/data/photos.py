"""Changes of single photographs: crops, mirrors and colour jitter, as in the authors' imagenet_utils.py.

They resize with OpenCV, which reads single pixels where an image shrinks; Pillow takes means.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.float32]
"""float32[H, W, 3], 0..255; colour jitter may go beyond."""

MARGIN = 256 / 224
"""The short side before a crop, relative to the crop."""

MEAN = (0.485, 0.456, 0.406)
"""Of the channels of ImageNet, pixels in 0..1."""

STD = (0.229, 0.224, 0.225)
"""Likewise."""

JITTER = 0.4
"""Brightness, contrast and saturation change by a factor of up to this more or less than 1."""

EIGENVALUES = np.array([0.2175, 0.0188, 0.0045], np.float32) * 255
EIGENVECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]], np.float32
)
"""Of the colours of ImageNet (Krizhevsky et al., 2012); row per channel."""

GRAY = np.array([0.299, 0.587, 0.114], np.float32)
"""Share of each channel in the gray value."""


def for_test(image: Image.Image, size: int) -> Pixels:
    """The middle of the image: short side to `size` * 256 / 224, then a square of `size`."""
    resized = _resize_short(image, size)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return _pixels(resized.crop((left, top, left + size, top + size)))


def for_training(
    image: Image.Image, size: int, kind: Literal["none", "flip", "crop-flip", "inception"], rng: np.random.Generator
) -> Pixels:
    """A changed image: float32[size, size, 3]; see `lqcompile.training.recipe.DataOptions`."""
    if kind == "inception":
        pixels = jitter(_pixels(random_area(image, size, rng)), rng)
    elif kind == "crop-flip":
        resized = _resize_short(image, size)
        left, top = (int(rng.integers(0, room + 1)) for room in (resized.width - size, resized.height - size))
        pixels = _pixels(resized.crop((left, top, left + size, top + size)))
    else:
        pixels = for_test(image, size)
    if kind != "none" and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels


def random_area(image: Image.Image, size: int, rng: np.random.Generator) -> Image.Image:
    """8 to 100 % of the image, its sides 3:4 to 4:3, as a square of `size`; the middle where ten tries do not fit.

    Source: Szegedy et al., "Going deeper with convolutions", 2015.
    """
    for _ in range(10):
        area = rng.uniform(0.08, 1.0) * image.width * image.height
        aspect = rng.uniform(0.75, 1.333)
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if rng.random() < 0.5:
            width, height = height, width
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = (int(rng.integers(0, room + 1)) for room in (image.width - width, image.height - height))
            box = (left, top, left + width, top + height)
            return image.resize((size, size), Image.Resampling.BICUBIC, box=box)
    resized = _resize_short(image, size, margin=1.0)
    left, top = (resized.width - size) // 2, (resized.height - size) // 2
    return resized.crop((left, top, left + size, top + size))


def jitter(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Brightness, contrast, saturation and the colour of the light, in random order."""
    for kind in rng.permutation(4):
        factor = np.float32(rng.uniform(1 - JITTER, 1 + JITTER))
        if kind == 0:
            pixels = pixels * factor
        elif kind == 1:
            mean = pixels.mean((0, 1), keepdims=True)
            pixels = (pixels - mean) * factor + mean
        elif kind == 2:
            pixels = pixels * factor + (pixels @ GRAY)[:, :, None] * (1 - factor)
        else:
            pixels = pixels + EIGENVECTORS @ (rng.normal(0, 0.1, 3).astype(np.float32) * EIGENVALUES)
    return pixels


def _resize_short(image: Image.Image, size: int, margin: float = MARGIN) -> Image.Image:
    """Resize the short side to `size` times `margin`, the other side likewise."""
    scale = round(size * margin) / min(image.size)
    target = (max(size, round(image.width * scale)), max(size, round(image.height * scale)))
    return image.resize(target, Image.Resampling.BICUBIC)


def _pixels(image: Image.Image) -> Pixels:
    return np.asarray(image, dtype=np.float32)
