import pytest
import torch

from lqcompile.errors import QuantizationError
from lqcompile.nn.lsq import LSQActivation, LSQWeight


def test_initial_steps_are_those_of_the_paper(seed):
    weight = torch.randn(4, 5, 3, 3)
    assert LSQWeight(3, weight).raw_step.item() == pytest.approx(2 * weight.abs().mean().item() / 3**0.5)
    x = torch.rand(6, 40)
    quantizer = LSQActivation(3)
    quantizer(x)
    first = quantizer.raw_step.item()
    assert first == pytest.approx(2 * x.mean().item() / 7**0.5)
    quantizer(10 * x)
    assert quantizer.raw_step.item() == first


def test_an_evaluated_quantizer_does_not_start(seed):
    quantizer = LSQActivation(2).eval()
    quantizer(torch.rand(3, 4))
    assert quantizer.raw_step == 1 and quantizer.started == 0


def test_step_gradients_are_scaled(seed):
    x = torch.full((2, 50), 1e3)
    quantizer = LSQActivation(2)
    quantizer.started.fill_(1)
    quantizer(x).sum().backward()
    # All of the 100 values lie above the grid: 3 each, times 1 / sqrt(50 features * 3).
    assert quantizer.raw_step.grad.item() == pytest.approx(300 / 150**0.5)
    weight = torch.full((2, 50), 1e3)
    quantizer = LSQWeight(2, weight)
    quantizer.raw_step.data.fill_(1.0)
    quantizer(weight).sum().backward()
    assert quantizer.raw_step.grad.item() == pytest.approx(100 / 100**0.5)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_encoded_weights_are_those_of_the_forward_pass(seed, bits):
    weight = torch.randn(6, 4, 3, 3)
    quantizer = LSQWeight(bits, weight)
    codes, coding = quantizer.encode(weight)
    assert codes.min() >= 0 and codes.max() < 1 << bits
    assert coding.integer == (bits == 1) and (coding.offset != 0).all() == (bits > 1)
    signs = 2.0 * ((codes[:, :, None] >> torch.arange(bits)) & 1) - 1
    values = coding.offset[:, None] + coding.scale[:, None] * (signs * coding.basis[:, None, :]).sum(2)
    assert torch.equal(values, quantizer(weight).detach().flatten(1))
    assert len(values.unique()) <= 1 << bits
    assert bool((values == 0).any()) == (bits > 1)


def test_bits_out_of_range():
    with pytest.raises(QuantizationError, match="weight_bits: found 0, expected 1 to 4; leave the layer in float"):
        LSQWeight(0, torch.randn(2, 3))
