"""The networks of the paper: their shapes and options."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from lqcompile import models  # noqa: E402
from lqcompile.errors import QuantizationError  # noqa: E402
from lqcompile.models.branches import BranchEnd  # noqa: E402
from lqcompile.nn import Int8Conv2d, Int8Linear, LQConv2d, LQLinear  # noqa: E402
from lqcompile.nn.quantizer import LQActivation  # noqa: E402

WEIGHTS = {
    "alexnet": 62_376_968,
    "densenet121": 7_895_208,
    "googlenet_variant": 12_250_792,
    "resnet18": 11_679_912,
    "resnet20": 270_906,
    "resnet34": 21_780_648,
    "resnet50": 25_503_912,
    "vgg_small": 4_656_522,
    "vgg_variant": 138_033_928,
}
"""Weights of the layers by the definition, from the tables in the authors' code; of the ImageNet ResNets and of
DenseNet-121, torchvision's total without batch normalization."""


def test_names_are_those_of_the_table():
    assert models.names() == sorted(WEIGHTS)


@pytest.mark.parametrize("name", models.names())
def test_float_network(name):
    with torch.device("meta"):
        model = models.create(name, weight_bits=None).eval()
        size = models.NETWORKS[name].image_size
        logits = model(torch.empty(2, 3, size, size))
    assert logits.shape == (2, models.NETWORKS[name].classes)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert sum(parameter.numel() for layer in layers for parameter in layer.parameters()) == WEIGHTS[name]
    assert not any(isinstance(module, LQConv2d | LQLinear) for module in model.modules())


@pytest.mark.parametrize("name", models.names())
def test_first_and_last_layers_are_8_bit(name):
    model = models.create(name, weight_bits=2, act_bits=3, classes=5)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert isinstance(layers[0], Int8Conv2d)
    assert isinstance(layers[-1], Int8Linear)
    inner = [layer for layer in layers if isinstance(layer, LQConv2d | LQLinear)]
    assert len(inner) == len(layers) - 2
    assert {layer.weight_quantizer.bits for layer in inner} == {2}
    assert {layer.act_quantizer.bits for layer in inner} == {3}


def test_blocks_of_a_group_share_the_sum_and_the_first_shares_its_activation():
    group = models.create("resnet20", weight_bits=None).groups
    assert [isinstance(block.preactivation, nn.Identity) for block in group[:3]] == [True, False, False]
    assert [isinstance(block.shortcut, nn.Identity) for block in group[:3]] == [True, True, True]
    assert not isinstance(group[5].shortcut, nn.Identity)  # the first block of the second group, behind BN and ReLU
    x = torch.randn(1, 16, 8, 8)
    zeroed = group[1].eval()
    nn.init.zeros_(zeroed.branch[-1].weight)
    torch.testing.assert_close(zeroed(x), x)  # the shortcut is the sum itself, not its ReLU


@pytest.mark.parametrize(("name", "quantized"), [("googlenet_variant", 1 + 3 * 8), ("densenet121", 58)])
def test_branches_are_quantized_once_as_in_the_paper(name, quantized):
    reading = models.create(name, act_bits=3, width=0.1)
    assert not [module for module in reading.modules() if isinstance(module, LQActivation) and module.bits != 3]
    assert len([module for module in reading.modules() if isinstance(module, BranchEnd)]) == quantized
    branching = models.create(name, act_bits=3, width=0.1, branch_quantizers=True)
    owned = {id(layer.act_quantizer) for layer in branching.modules() if isinstance(layer, LQConv2d)}
    alone = [module for module in branching.modules() if isinstance(module, LQActivation) and id(module) not in owned]
    assert len(alone) == quantized
    assert len({id(quantizer.basis) for quantizer in alone}) == quantized  # each learns its own
    assert all(quantizer.bits == 3 and quantizer.integer_required for quantizer in alone)
    assert all(isinstance(layer.act_quantizer, nn.Identity) for layer in branching.readers())
    assert not any(isinstance(module, BranchEnd) for module in branching.modules())


def test_float_twin_of_branches_passes_them_on():
    model = models.create("googlenet_variant", weight_bits=None, branch_quantizers=True, width=0.1)
    assert not any(isinstance(module, LQActivation) for module in model.modules())


def test_edges_can_stay_in_float_and_activations_too():
    model = models.create("vgg_small", act_bits=None, edge_bits=None, basis="float")
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert [type(layer) for layer in (layers[0], layers[-1])] == [nn.Conv2d, nn.Linear]
    assert all(isinstance(layer.act_quantizer, nn.Identity) for layer in layers[1:-1])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet19", {}, r"network 'resnet19': unknown; known networks: alexnet, .*, vgg_small"),
        (
            "vgg_small",
            {"width": 0},
            r"network 'vgg_small': found width=0, expected more than 0; 1 is the paper's width",
        ),
        ("alexnet", {"image_size": 63}, r"network 'alexnet': found image_size=63, expected at least 64; give larger"),
        ("resnet18", {"float_shortcut": True}, r"network 'resnet18': found float_shortcut=True, expected"),
        (
            "vgg_small",
            {"float_shortcut": True},
            r"network 'vgg_small': found float_shortcut=True, expected",
        ),
        (
            "vgg_variant",
            {"branch_quantizers": True},
            r"network 'vgg_variant': found branch_quantizers=True, expected a network that concatenates",
        ),
        ("resnet20", {"weight_bits": 9}, r"layer 'groups.0.branch.0': weight_bits: found 9, expected 1 to 4"),
    ],
)
def test_refused(name, options, message):
    with pytest.raises(QuantizationError, match=message):
        models.create(name, **options)


def test_width():
    model = models.create("resnet50", weight_bits=None, width=0.5)
    assert model.stem[0].out_channels == 32
    assert model.classifier.in_features == 1024
