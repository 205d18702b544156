import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lqcompile.errors import QuantizationError
from lqcompile.nn import LQActivation, LQConv2d, LQLinear, quantize


@pytest.mark.parametrize("padding", [1, "same", "valid", (2, 0)])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_of_quantized_input_and_weights(seed, padding, groups):
    layer = LQConv2d(4, 6, 3, weight_bits=3, act_bits=2, padding=padding, groups=groups).eval()
    x = torch.randn(2, 4, 7, 8)
    weight, act = layer.weight_quantizer(layer.weight), layer.act_quantizer(x)
    assert len(act.unique()) <= 4
    assert max(len(channel.unique()) for channel in weight) <= 8
    assert torch.equal(layer(x), F.conv2d(act, weight, layer.bias, padding=padding, groups=groups))


@pytest.mark.parametrize("act_bits", [1, None])
def test_linear_of_any_rank_and_weight_only(seed, act_bits):
    layer = LQLinear(5, 3, weight_bits=2, act_bits=act_bits, bias=False).eval()
    x = torch.randn(2, 4, 5)
    act = x if act_bits is None else layer.act_quantizer(x)
    assert torch.equal(layer(x), F.linear(act, layer.weight_quantizer(layer.weight)))
    assert isinstance(layer.act_quantizer, LQActivation) == (act_bits is not None)


def test_from_float_shares_parameters_and_arguments():
    conv = nn.Conv2d(4, 8, (3, 1), stride=2, padding=(1, 0), dilation=2, groups=2, bias=False).eval()
    layer = LQConv2d.from_float(conv, 2, 3)
    assert layer.weight is conv.weight and layer.bias is None and not layer.training
    assert (layer.stride, layer.padding, layer.dilation, layer.groups) == ((2, 2), (1, 0), (2, 2), 2)
    assert layer.weight_quantizer.bits == 2 and layer.act_quantizer.bits == 3
    linear = nn.Linear(4, 2)
    assert LQLinear.from_float(linear, 1, None).bias is linear.bias


def test_padding_other_than_zeros_is_refused():
    with pytest.raises(QuantizationError, match="LQConv2d: padding_mode='reflect', expected 'zeros'; pad with"):
        LQConv2d(1, 1, 3, padding=1, padding_mode="reflect")


def small_net():
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 4)),
    )


@pytest.mark.parametrize("bits", [(1, 2), (2, 2), (2, None)])
def test_a_small_net_learns(seed, bits):
    net = quantize(small_net(), *bits)
    x = torch.randn(64, 1, 8, 8)
    labels = (2 * (x[:, 0, :4].mean((1, 2)) > 0) + (x[:, 0, 4:].mean((1, 2)) > 0)).long()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(net(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_state_dict_of_a_net_round_trips(seed):
    net = quantize(small_net())
    for _ in range(3):
        net(torch.randn(8, 1, 8, 8))
    fresh = quantize(small_net())
    fresh.load_state_dict(copy.deepcopy(net.state_dict()))
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(net.eval()(x), fresh.eval()(x))


def test_autocast_trains(seed):
    net = quantize(small_net(), edge_bits=8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = net(torch.randn(8, 1, 8, 8)).float().square().mean()
    loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters())
    assert net[3].act_quantizer.basis.dtype == torch.float32


def test_deepcopy_is_independent(seed):
    net = quantize(small_net())
    twin = copy.deepcopy(net)
    before = net[3].act_quantizer.basis.clone()
    twin(torch.randn(8, 1, 8, 8))
    assert torch.equal(before, net[3].act_quantizer.basis)
    assert not torch.equal(before, twin[3].act_quantizer.basis)
    assert twin[3].weight is not net[3].weight


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_to_device_moves_everything_and_agrees(seed):
    net = quantize(small_net(), edge_bits=8)
    net(torch.randn(8, 1, 8, 8))
    x = torch.randn(4, 1, 8, 8)
    here = net.eval()(x)
    there = net.to("cuda")
    assert {tensor.device.type for tensor in there.state_dict().values() if tensor.ndim} == {"cuda"}
    torch.testing.assert_close(there(x.cuda()).cpu(), here, rtol=1e-2, atol=1e-2)
    there.train()(x.cuda()).sum().backward()


def test_to_meta_moves_every_tensor():
    net = quantize(small_net(), edge_bits=8).to("meta")
    tensors = [*net.parameters(), *net.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
