import numpy as np
import pytest
import torch

from lqcompile.errors import QuantizationError
from lqcompile.nn.dorefa import CLIP, DoReFaWeight, PACTActivation


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_weights_follow_the_formula(seed, bits):
    weight = torch.randn(5, 7, requires_grad=True)
    quantizer = DoReFaWeight(bits, weight)
    result = quantizer(weight)
    squashed = np.tanh(weight.detach().numpy().astype(np.float64))
    top = 2**bits - 1
    expected = 2 * np.rint(top * (squashed / (2 * np.abs(squashed).max()) + 0.5)) / top - 1
    # The scale is rounded to 16 significant bits.
    np.testing.assert_allclose(result.detach().numpy(), expected, rtol=2e-5)
    factor = torch.randn(5, 7)
    (result * factor).sum().backward()
    twin = weight.detach().double().requires_grad_()
    normal = torch.tanh(twin) / torch.tanh(twin).abs().max()
    (normal * factor).sum().backward()
    torch.testing.assert_close(weight.grad.double(), twin.grad, rtol=1e-4, atol=1e-5)


def test_one_bit_is_the_sign_times_the_mean(seed):
    weight = torch.randn(5, 7, requires_grad=True)
    result = DoReFaWeight(1, weight)(weight)
    torch.testing.assert_close(result, weight.sign() * weight.abs().mean(), rtol=2e-5, atol=0)
    factor = torch.randn(5, 7)
    (result * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_encoded_weights_are_those_of_the_forward_pass(seed, bits):
    weight = torch.randn(6, 4, 3, 3)
    quantizer = DoReFaWeight(bits, weight)
    codes, coding = quantizer.encode(weight)
    assert coding.integer and not coding.offset.any()
    signs = 2.0 * ((codes[:, :, None] >> torch.arange(bits)) & 1) - 1
    values = coding.scale[:, None] * (signs * coding.basis[:, None, :]).sum(2)
    assert torch.equal(values, quantizer(weight).flatten(1))


def test_clip_gradient_is_what_lies_above_and_the_penalty(seed):
    quantizer = PACTActivation(2, decay=0.01)
    x = torch.cat([torch.rand(20) * 4, 9 + torch.rand(5)])[None].requires_grad_()
    grad = torch.randn(1, 25)
    quantizer(x).backward(grad)
    assert quantizer.alpha.grad.item() == pytest.approx(grad[0, 20:].sum().item() + 0.01 * CLIP, abs=1e-4)
    assert torch.equal(x.grad, grad * (x <= CLIP))


def test_bits_out_of_range():
    with pytest.raises(QuantizationError, match="weight_bits: found 5, expected 1 to 4; leave the layer in float"):
        DoReFaWeight(5, torch.randn(2, 3))
