import pytest
import torch
from tiny_training import make

from lqcompile.training import Optimizer
from lqcompile.training.optimizer import make_optimizer


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_only_weights_decay(seed, kind):
    model = make()
    optimizer = make_optimizer(Optimizer(kind=kind, lr=0.5, weight_decay=0.1), model)
    decayed = {id(item) for group in optimizer.param_groups if group["weight_decay"] for item in group["params"]}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in decayed) == (name in {"0.weight", "3.weight", "7.weight"}), name


def test_sgd_is_that_of_the_paper(seed):
    """One step of TensorFlow's MomentumOptimizer with Nesterov and an L2 loss, in float64."""
    weight = torch.nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    model = torch.nn.ParameterList([weight])
    optimizer = make_optimizer(Optimizer(lr=0.1, momentum=0.9, weight_decay=5e-2), model)
    expected, buffer = weight.detach().clone(), torch.zeros_like(weight)
    for _ in range(3):
        gradient = torch.randn_like(weight)
        weight.grad = gradient.clone()
        optimizer.step()
        gradient = gradient + 5e-2 * expected
        buffer = 0.9 * buffer + gradient
        expected = expected - 0.1 * (gradient + 0.9 * buffer)
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=0)
