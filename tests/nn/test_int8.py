import copy
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lqcompile.errors import QuantizationError
from lqcompile.integer_basis import round_to_significant_bits
from lqcompile.nn import Int8Conv2d, Int8Linear
from lqcompile.nn.coding import round_significand
from lqcompile.nn.int8 import RANGE_DECAY, Int8Activation, fake_quantize_weight, weight_scale


def test_scales_are_rounded_as_integer_bases_are(seed):
    values = torch.rand(100) * 10
    assert np.array_equal(round_significand(values).double(), round_to_significant_bits(values.numpy()))


def test_activation_equals_quantize_and_dequantize(seed):
    observer = Int8Activation()
    x = torch.randn(1000)
    observer.observe(x)
    scale, zero_point = observer.grid()
    codes = np.clip(np.rint(x.numpy() / scale.numpy()) + int(zero_point), 0, 255)
    assert np.array_equal(observer.eval()(x), ((codes - int(zero_point)) * scale.numpy()).astype(np.float32))
    assert 0 <= zero_point <= 255
    assert (observer(x) - x).abs().max() <= 1.01 * scale


def test_weights_are_symmetric_per_channel(seed):
    weight = torch.randn(6, 5, 3, 3)
    quantized = fake_quantize_weight(weight)
    integers = quantized.double().flatten(1) / weight_scale(weight).double()[:, None]
    torch.testing.assert_close(integers, integers.round(), rtol=0, atol=1e-9)
    assert integers.abs().amax(1).tolist() == [127.0] * 6
    assert fake_quantize_weight(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


def test_gradient_passes_inside_the_grid_only():
    observer = Int8Activation().eval()
    x = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    observer(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_range_is_an_average_when_training_and_a_union_when_calibrating():
    first, second = torch.tensor([-1.0, 3.0]), torch.tensor([-2.0, 2.0])
    training, calibrating = Int8Activation(), Int8Activation()
    for x in (first, second):
        training(x)
        calibrating.observe(x, average=False)
    assert training.low.item() == pytest.approx(-RANGE_DECAY - 2 * (1 - RANGE_DECAY))
    assert training.high.item() == pytest.approx(3 * RANGE_DECAY + 2 * (1 - RANGE_DECAY))
    assert (calibrating.low.item(), calibrating.high.item()) == (-2.0, 3.0)
    training.frozen = True
    low = training.low.clone()
    training(10 * first)
    assert torch.equal(low, training.low)


def test_zero_is_always_on_the_grid(seed):
    observer = Int8Activation()
    observer.observe(torch.rand(10) + 5)
    assert observer.low == 0
    assert observer.eval()(torch.zeros(1)).item() == 0


def test_layers_compute_on_quantized_values(seed):
    conv = Int8Conv2d.from_float(nn.Conv2d(2, 4, 3, padding=1)).eval()
    x = torch.rand(2, 2, 5, 5)
    assert torch.equal(
        conv(x), F.conv2d(conv.act_quantizer(x), fake_quantize_weight(conv.weight), conv.bias, padding=1)
    )
    linear = Int8Linear.from_float(nn.Linear(5, 3, bias=False)).eval()
    y = torch.rand(2, 7, 5)
    assert torch.equal(linear(y), F.linear(linear.act_quantizer(y), fake_quantize_weight(linear.weight)))


def test_state_dict_carries_the_range(seed):
    layer = Int8Linear(4, 2)
    layer(torch.randn(10, 4))
    layer.act_quantizer.frozen = True
    fresh = Int8Linear(4, 2)
    fresh.load_state_dict(copy.deepcopy(layer.state_dict()))
    x = torch.randn(3, 4)
    assert fresh.act_quantizer.frozen
    assert torch.equal(layer(x), fresh(x))


def test_padding_other_than_zeros_is_refused():
    with pytest.raises(QuantizationError, match="Int8Conv2d: padding_mode='circular', expected 'zeros'"):
        Int8Conv2d(1, 1, 3, padding=1, padding_mode="circular")


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_those_of_the_quantized_values(seed, memory_format):
    """Bit for bit, though the layer keeps codes instead of values: straight-through where a value is on the grid."""
    layer = Int8Conv2d.from_float(nn.Conv2d(3, 4, 3, padding=1)).eval()
    layer.act_quantizer.observe(torch.randn(100))
    x = (2 * torch.randn(2, 3, 9, 7)).to(memory_format=memory_format).requires_grad_()
    grad = torch.randn(2, 4, 9, 7)
    layer(x).backward(grad)

    scale, zero_point = layer.act_quantizer.grid()
    grid = torch.round(x.detach() / scale) + zero_point
    quantized = ((grid.clamp(0, 255) - zero_point) * scale).requires_grad_()
    weight = fake_quantize_weight(layer.weight.detach()).requires_grad_()
    F.conv2d(quantized, weight, layer.bias, padding=1).backward(grad)
    assert torch.equal(layer.weight.grad, weight.grad)
    inside = (grid >= 0) & (grid <= 255)
    assert 0 < inside.sum() < inside.numel()
    assert torch.equal(x.grad, quantized.grad * inside)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read as Linux tells it")
def test_an_8_bit_layer_keeps_one_byte_per_activation_more_than_float(monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "training_memory.py"
    spec = importlib.util.spec_from_file_location("training_memory", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SHAPE", (1, 16, 512, 512))
    plain = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    kept = {
        name: module.kept_per_activation(layer)
        for name, layer in (("float", plain), ("int8", Int8Conv2d.from_float(plain)))
    }
    assert 3.8 < kept["float"] < 4.2 and kept["int8"] < kept["float"] + 1.2, kept
