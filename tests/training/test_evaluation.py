import dataclasses

import numpy as np
import pytest
import torch
from tiny_training import data, make

from lqcompile.errors import TrainingError
from lqcompile.nn import quantize
from lqcompile.training import Arrays, evaluate
from lqcompile.training.data.order import training_order
from lqcompile.training.evaluation import check_network, estimate_statistics


def test_accuracy_and_loss(seed):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))
    images = torch.randint(0, 256, (50, 1, 8, 8), dtype=torch.uint8)
    labels = torch.randint(0, 7, (50,))
    found = evaluate(model, Arrays(images=images, labels=labels), batch=16)
    with torch.no_grad():
        logits = model(images.float() / 255).double().numpy()
    order = np.argsort(-logits, axis=1)
    right = order == labels.numpy()[:, None]
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(50), labels]
    assert (found.top1, found.top5, found.count) == (right[:, 0].mean(), right[:, :5].sum(1).mean(), 50)
    np.testing.assert_allclose(found.loss, loss.mean(), rtol=1e-5)


def test_a_test_changes_nothing(seed):
    model = quantize(make(), edge_bits=8)
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, data(seed).test, batch=10)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training and not model[1].training


def test_statistics_are_means_over_batches(seed):
    model, source = quantize(make(), edge_bits=8), data(seed).train
    bases = {name: value.clone() for name, value in model.state_dict().items() if "quantizer" in name}
    estimate_statistics(model, source, batches=2, batch=32, seed=5)
    seen = []
    model[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].double().numpy()))
    model.eval()
    with torch.no_grad():
        for images, _ in source.batches(training_order(len(source), 32, seed=5, epoch=0)[:2], 5):
            model(images)
    means = [batch.mean((0, 2, 3)) for batch in seen]
    variances = [batch.var((0, 2, 3), ddof=1) for batch in seen]
    np.testing.assert_allclose(model[1].running_mean, np.mean(means, axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model[1].running_var, np.mean(variances, axis=0), rtol=1e-4, atol=1e-6)
    assert model[1].momentum == 0.1
    assert all(torch.equal(model.state_dict()[name], value) for name, value in bases.items())


def test_data_that_do_not_fit(seed):
    model, source = make(), data(seed).test
    with pytest.raises(
        TrainingError, match=r"^labels: found 3, expected 0 to 2 for a network of 3 classes; make the net"
    ):
        evaluate(model, Arrays(images=source.images, labels=source.labels + 1), batch=96)
    with pytest.raises(TrainingError, match=r"^test data: found no samples, expected at least one$"):
        check_network(model, Arrays(images=source.images[:0], labels=source.labels[:0]))


def test_networks_that_do_not_fit(seed):
    source = data(seed).test
    check_network(make(), source)
    for wrong in (torch.nn.Conv2d(3, 4, 3), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(63, 3))):
        with pytest.raises(TrainingError, match=r"found samples of shape \[1, 8, 8\], which it does not take \("):
            check_network(wrong, source)
    with pytest.raises(TrainingError, match=r"Conv2d: found output \[1, 4, 6, 6\] for one sample, expected \["):
        check_network(torch.nn.Conv2d(1, 4, 3), source)
    with pytest.raises(TrainingError, match="GRU: found output tuple for one sample"):
        check_network(torch.nn.GRU(8, 2), dataclasses.replace(source, images=source.images[:, 0]))
