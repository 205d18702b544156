"""The networks of the paper: their shapes, and each from torch to a verified artifact on small images."""

import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from lqcompile import cpu, models  # noqa: E402
from lqcompile.build import build  # noqa: E402
from lqcompile.errors import QuantizationError  # noqa: E402
from lqcompile.nn import Int8Conv2d, Int8Linear, LQConv2d, LQLinear, calibrate, export  # noqa: E402
from lqcompile.runtime import load  # noqa: E402
from lqcompile.verify import verify  # noqa: E402

TARGET = "x86-avx2"

WEIGHTS = {
    "alexnet": 62_376_968,
    "resnet18": 11_679_912,
    "resnet20": 270_906,
    "resnet34": 21_780_648,
    "resnet50": 25_503_912,
    "vgg_small": 4_656_522,
}
"""Weights of the layers by the definition; of the ImageNet ResNets, torchvision's total without batch normalization."""

SIZES = {"alexnet": 64, "resnet18": 40, "resnet20": 12, "resnet34": 32, "resnet50": 32, "vgg_small": 16}
"""Small images, some of them odd on the way, so that the tests stay short."""


@pytest.fixture
def seed():
    """A fresh seed, printed so that a failure can be repeated."""
    value = random.randrange(1 << 31)  # noqa: S311 - test data
    print(f"seed {value}")  # noqa: T201 - pytest shows it when the test fails
    return value


runs = pytest.mark.skipif(
    cpu.machine() != "x86_64" or "avx2" not in cpu.cpu_features(), reason=f"this CPU does not run {TARGET}"
)


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
        ("resnet20", {"weight_bits": 9}, r"layer 'groups.0.branch.0': weight_bits: found 9, expected 1 to 4"),
    ],
)
def test_refused(name, options, message):
    with pytest.raises(QuantizationError, match=message):
        models.create(name, **options)


def verified(tmp_path, name, seed, **options):
    """Build report and verification report of a network calibrated on random images, from fresh random weights."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)  # more would wait for one another where other tests run beside this one
    size = options.pop("image_size", SIZES[name])
    model = models.create(name, image_size=size, classes=7, width=0.25, **options)
    images = torch.randn(4, 3, size, size)
    calibrate(model, [images], max_passes=1)
    export(model.eval(), images[:1], tmp_path / "model.onnx")
    report = build(tmp_path / "model.onnx", target=TARGET, output=tmp_path / "model.tar")
    compiled = load(tmp_path / "model.tar")
    samples = np.random.default_rng(seed).normal(size=(3, 3, size, size)).astype(np.float32)
    return report, verify(tmp_path / "model.onnx", compiled, {compiled.inputs[0].name: samples}).to_json()


def test_width():
    model = models.create("resnet50", weight_bits=None, width=0.5)
    assert model.stem[0].out_channels == 32
    assert model.classifier.in_features == 1024


BITS = {"alexnet": (2, 2), "resnet18": (1, 2), "resnet20": (3, 3), "resnet34": (2, 2), "resnet50": (1, 1)}


@runs
@pytest.mark.parametrize("name", models.names())
def test_network_from_torch_to_a_verified_artifact(tmp_path, name, seed):
    weight_bits, act_bits = BITS.get(name, (2, 2))
    report, verification = verified(tmp_path, name, seed, weight_bits=weight_bits, act_bits=act_bits)
    assert verification["passed"]
    forced, free = verification["forced"], verification["free"]
    assert forced["integers"] > 0
    assert (forced["integer_mismatches"], forced["mismatches"], free["output_mismatches"]) == (0, 0, 0)
    kernels = {layer["kernel"] for layer in report.layers}
    assert "float" not in kernels
    assert [layer["weight_bits"] for layer in report.layers[:: len(report.layers) - 1]] == [8, 8]


@runs
@pytest.mark.parametrize("act_bits", [None, 2])
def test_weight_only_network_and_float_shortcut(tmp_path, act_bits, seed):
    if act_bits is None:
        report, verification = verified(tmp_path, "resnet20", seed, weight_bits=2, act_bits=None)
    else:
        report, verification = verified(tmp_path, "resnet50", seed, weight_bits=2, act_bits=2, float_shortcut=True)
    assert verification["passed"]
    floats = [layer for layer in report.layers if layer["act_bits"] == 32]
    assert len(floats) == (20 if act_bits is None else 1)
    assert all(layer["weight_bits"] == 2 for layer in floats)
