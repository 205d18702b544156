import pytest
import torch

from lqcompile.errors import TrainingError
from lqcompile.training.data.order import mix, part_order, training_order


@pytest.mark.parametrize("world", [1, 3])
def test_every_epoch_has_an_order_of_its_own(seed, world):
    epochs = []
    for epoch in range(2):
        parts = [training_order(50, 12, seed=seed, epoch=epoch, rank=rank, world=world) for rank in range(world)]
        assert all(len(part) == 4 and {len(pick) for pick in part} == {12 // world} for part in parts)
        epochs.append([torch.cat(batch) for batch in zip(*parts, strict=True)])
        together = torch.cat(epochs[-1])
        assert len(together.unique()) == 48 and together.min() >= 0 and together.max() < 50
        # Whatever the number of processes, a step sees the same samples.
        alone = training_order(50, 12, seed=seed, epoch=epoch)
        assert all(torch.equal(one, two) for one, two in zip(alone, epochs[-1], strict=True))
    assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))


def test_parts_of_a_test_hold_every_sample_once():
    picks = [pick for rank in range(3) for pick in part_order(50, 7, rank=rank, world=3)]
    assert sorted(torch.cat(picks).tolist()) == list(range(50)) and max(map(len, picks)) == 7


def test_orders_that_cannot_be():
    with pytest.raises(
        TrainingError, match=r"^training data: found 9 samples, expected at least one batch of 10; lower"
    ):
        training_order(9, 10, seed=0, epoch=0)
    with pytest.raises(TrainingError, match=r"^data\.batch: found 10, expected a multiple of the 3 processes; change"):
        training_order(100, 10, seed=0, epoch=0, world=3)


def test_seeds_do_not_collide():
    seeds = {mix(seed, epoch, rank) for seed in range(20) for epoch in range(20) for rank in range(20)}
    assert len(seeds) == 8000 and all(0 <= value < 1 << 62 for value in seeds)
