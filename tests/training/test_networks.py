"""The networks of recipes: those that ship, narrow; the refusals are in test_run.py."""

import dataclasses

import pytest
import torch
from tiny_training import data

from lqcompile.nn import LQConv2d
from lqcompile.training import recipes
from lqcompile.training.checkpoint import load_into
from lqcompile.training.data.load import ImageData
from lqcompile.training.data.source import UNIT
from lqcompile.training.evaluation import check_network
from lqcompile.training.networks import make_network, twin_of
from lqcompile.training.recipes import load_recipe


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_make_networks_that_start_from_their_twins(name, tmp_path):
    network = load_recipe(name).network
    network = network.model_copy(update={"options": network.options | {"width": 0.05}})
    small = data(0)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    parts = {"train": small.train, "test": dataclasses.replace(small.test, images=images, labels=torch.tensor([0, 3]))}
    known = ImageData(**parts, shape=(3, 64, 64), classes=7, normalization=UNIT)
    model, twin = make_network(network, known), make_network(twin_of(network), known)
    quantized = [module for module in model.modules() if isinstance(module, LQConv2d)]
    assert bool(quantized) == (not network.is_float)
    assert not any(isinstance(module, LQConv2d) for module in twin.modules())
    if quantized:
        assert {module.weight_quantizer.bits for module in quantized} == {network.weight_bits}
    check_network(model, known.test)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.1)
    load_into(model, twin.state_dict(), tmp_path, from_twin=True)
    own = dict(model.named_parameters())
    assert all(torch.equal(own[name], parameter) for name, parameter in twin.named_parameters())
