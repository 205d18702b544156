"""Where batches come from: arrays in memory, or any torch dataset.

Which samples make a batch is decided outside (`lqcompile.training.data.order`), so that a source has no state and a
resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

Batch = tuple[Tensor, Tensor]
"""Images float32[N, C, H, W] as the network reads them, labels int64[N]."""

Change = Callable[[Tensor, torch.Generator], Tensor]
"""Changes a batch at random: uint8[N, C, H, W] -> uint8[N, C, H, W]."""


class Source(Protocol):
    """Samples with an index each."""

    def __len__(self) -> int:
        """Number of samples."""

    def batches(self, picks: Sequence[Tensor], seed: int) -> Iterator[Batch]:
        """One batch for each tensor of indices (int64[N]); random changes follow from `seed` alone."""


@dataclass(frozen=True, kw_only=True)
class Normalization:
    """What the network reads: ``(pixel / 255 - mean) / std``.

    Args:
        mean: float32, broadcast to [C, H, W].
        std: float32, broadcast to [C, H, W].
    """

    mean: Tensor
    std: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Pixels 0..255, any dtype and shape that ends in [C, H, W] -> float32 of the same shape."""
        return (images.float() / 255 - self.mean) / self.std


UNIT = Normalization(mean=torch.zeros(1, 1, 1), std=torch.ones(1, 1, 1))
"""The network reads pixel / 255."""


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """Images in memory.

    Args:
        images: uint8[N, C, H, W].
        labels: int64[N].
        normalization: what the network reads.
        change: random changes of every batch; None for none.
    """

    images: Tensor
    labels: Tensor
    normalization: Normalization = UNIT
    change: Change | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def batches(self, picks: Sequence[Tensor], seed: int) -> Iterator[Batch]:
        """See `Source`."""
        generator = torch.Generator().manual_seed(seed)
        for pick in picks:
            images = self.images[pick]
            if self.change is not None:
                images = self.change(images, generator)
            yield self.normalization(images), self.labels[pick]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Any torch dataset whose items are (image float32[C, H, W], label).

    Args:
        dataset: with ``__getitem__`` and ``__len__``.
        workers: processes that load its items; 0 loads them in this one.
    """

    dataset: Dataset[Any]
    workers: int = 0

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.dataset)  # type: ignore[arg-type]  # a Dataset with a length

    def batches(self, picks: Sequence[Tensor], seed: int) -> Iterator[Batch]:
        """See `Source`; `seed` seeds torch's generator in the workers, other generators are the dataset's business."""
        generator = torch.Generator().manual_seed(seed)
        chosen = [pick.tolist() for pick in picks]
        loader: DataLoader[Any] = DataLoader(
            self.dataset, batch_sampler=chosen, num_workers=self.workers, generator=generator
        )
        for images, labels in loader:
            yield images, torch.as_tensor(labels)


@dataclass(frozen=True, kw_only=True)
class Data:
    """What `lqcompile.training.fit` needs of a data set.

    Args:
        train: samples to learn from.
        test: samples to test with after every epoch.
    """

    train: Source
    test: Source
