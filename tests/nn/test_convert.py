import pytest
import torch
from torch import nn

from lqcompile.errors import QuantizationError
from lqcompile.nn import Int8Conv2d, Int8Linear, LQConv2d, LQLinear, quantize, snap
from lqcompile.nn.int8 import Int8Activation


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.depth = nn.Conv2d(8, 8, 3, groups=8)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()) for _ in range(2)])
        self.shared = self.blocks[0][0]
        self.head = nn.Linear(8, 2)


def types(model):
    layers = (nn.Conv2d, nn.Linear)
    return {name: type(module) for name, module in model.named_modules() if isinstance(module, layers)}


def test_first_and_last_stay_float_and_shared_layers_stay_shared():
    net = Net()
    weights = {name: module.weight for name, module in net.named_modules() if hasattr(module, "weight")}
    assert quantize(net, 1, 3) is net
    found = types(net)
    assert found["stem"] is nn.Conv2d and found["head"] is nn.Linear
    assert found["depth"] is LQConv2d and found["blocks.1.0"] is LQConv2d
    assert net.shared is net.blocks[0][0]
    assert all(net.get_submodule(name).weight is weight for name, weight in weights.items())
    assert net.depth.weight_quantizer.bits == 1 and net.depth.act_quantizer.bits == 3


def test_edges_in_eight_bits_unless_named():
    found = types(quantize(Net(), edge_bits=8))
    assert found["stem"] is Int8Conv2d and found["head"] is Int8Linear
    found = types(quantize(Net(), edge_bits=8, skip=("first", "last", "head")))
    assert found["stem"] is Int8Conv2d and found["head"] is nn.Linear


@pytest.mark.parametrize(
    ("skip", "kept"),
    [
        ((), set()),
        ("last", {"head"}),
        (("depthwise",), {"depth"}),
        (("blocks.*",), {"blocks.0.0", "blocks.1.0"}),
        (("stem", "head"), {"stem", "head"}),
    ],
)
def test_skip(skip, kept):
    found = types(quantize(Net(), skip=skip))
    assert {name for name, kind in found.items() if kind not in (LQConv2d, LQLinear)} == kept


def test_subclasses_are_left_alone():
    net = nn.Sequential(nn.Linear(4, 4), nn.MultiheadAttention(4, 2), nn.Linear(4, 4))
    quantize(net, skip=())
    assert type(net[0]) is LQLinear
    assert not isinstance(net[1].out_proj, LQLinear)


def test_layers_keep_mode():
    net = quantize(Net().eval())
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skip": ("stam",)}, "skip: 'stam' matches no layer; layers: stem, depth, blocks.0.0"),
        ({"basis": "int4"}, "basis: found 'int4', expected 'float' or 'int8'"),
        ({"edge_bits": 4}, "edge_bits: found 4, expected None or 8"),
        ({"weight_bits": 5}, "layer 'depth': weight_bits: found 5, expected 1 to 4"),
        ({"act_bits": 0}, "layer 'depth': act_bits: found 0, expected 1 to 4"),
    ],
)
def test_errors(options, message):
    with pytest.raises(QuantizationError, match=message):
        quantize(Net(), **options)


def test_an_error_leaves_the_model_as_it_was():
    net = Net()
    net.blocks[1][0] = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    before = types(net)
    with pytest.raises(QuantizationError, match=r"'blocks\.1\.0': Conv2d: padding_mode='reflect', expected 'zeros'"):
        quantize(net)
    assert types(net) == before


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Conv2d(1, 1, 1), nn.Sequential(nn.ReLU())])
def test_nothing_to_quantize(model):
    with pytest.raises(QuantizationError, match="found no Conv2d or Linear inside it, expected at least one; wrap"):
        quantize(model)


def test_snap_freezes_bases_and_ranges(seed):
    net = quantize(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), edge_bits=8)
    net(torch.randn(16, 4))
    assert snap(net, weight_limit=15, act_limit=31) is net
    assert net[2].weight_quantizer.basis.abs().sum(1).max() <= 15
    assert net[2].act_quantizer.basis.sum() <= 31
    before = {name: tensor.clone() for name, tensor in net.named_buffers()}
    net(10 * torch.randn(16, 4))
    assert all(torch.equal(before[name], tensor) for name, tensor in net.named_buffers())
    assert all(module.frozen for module in net.modules() if isinstance(module, Int8Activation))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_limit": 128}, "weight_limit: found 128, expected 1 to 127"),
        ({"act_limit": 0}, "act_limit: found 0, expected 1 to 255"),
    ],
)
def test_snap_limits(options, message):
    with pytest.raises(QuantizationError, match=message):
        snap(quantize(Net()), **options)


def test_snap_needs_a_quantized_model():
    with pytest.raises(QuantizationError, match="model Net: found no quantized layer; call quantize first"):
        snap(Net())
