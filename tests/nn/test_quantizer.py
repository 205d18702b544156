import copy

import pytest
import torch

from lqcompile.errors import QuantizationError
from lqcompile.nn.qem import quantize_with_statistics, solve_basis, sorted_levels
from lqcompile.nn.quantizer import DECAY, LQActivation, LQWeight


def test_initial_bases_are_those_of_the_authors_code():
    assert LQActivation(3).basis.tolist()[0] == pytest.approx([0.6745 * 2 / 7 * 2**j for j in range(3)])
    weight = torch.randn(16, 4, 3, 3)
    first = 0.6745 * (2 / (9 * 16)) ** 0.5 / 2
    assert LQWeight(2, weight).basis[5].tolist() == pytest.approx([first, 2 * first])
    assert LQWeight(1, torch.randn(8, 5)).basis[0].item() == pytest.approx(0.6745 * (2 / 8) ** 0.5)


@pytest.mark.parametrize("bits", [0, 5])
def test_bits_out_of_range(bits):
    with pytest.raises(QuantizationError, match=f"act_bits: found {bits}, expected 1 to 4; leave the layer in float"):
        LQActivation(bits)
    with pytest.raises(QuantizationError, match=f"weight_bits: found {bits}, expected 1 to 4; leave the layer"):
        LQWeight(bits, torch.randn(2, 3))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("symmetric", [True, False])
def test_training_uses_the_old_basis_and_a_zero_debiased_average(seed, bits, symmetric):
    x = torch.randn(4, 600)
    quantizer = LQWeight(bits, x) if symmetric else LQActivation(bits)
    average = torch.zeros_like(quantizer.basis, dtype=torch.float64)
    for step in range(1, 5):
        values = x + 0.1 * torch.randn_like(x)
        rows = values if symmetric else values.reshape(1, -1)
        before = quantizer.basis.clone()
        levels = sorted_levels(before, symmetric)
        expected, statistics = quantize_with_statistics(rows, levels)
        torch.testing.assert_close(quantizer(values), expected.view_as(values), rtol=0, atol=0)
        # As TensorFlow does it: an average from zero, divided by the weight it has so far.
        average = DECAY * average + (1 - DECAY) * solve_basis(statistics, levels, before, symmetric)
        torch.testing.assert_close(quantizer.basis.double(), average / (1 - DECAY**step), rtol=1e-5, atol=1e-6)


def test_activation_gradient_is_that_of_min_x_top(seed):
    quantizer = LQActivation(2)
    top = quantizer.levels().values[0, -1].item()
    x = torch.tensor([0.0, 0.3, top, top + 1e-3, 5.0], requires_grad=True)
    (quantizer(x) * torch.arange(1.0, 6.0)).sum().backward()
    assert x.grad.tolist() == [1.0, 2.0, 3.0, 0.0, 0.0]


def test_weight_gradient_is_the_identity(seed):
    weight = torch.randn(3, 20, requires_grad=True)
    factor = torch.randn(3, 20)
    (LQWeight(2, weight)(weight) * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


def test_negative_values_become_level_zero(seed):
    quantizer = LQActivation(2).eval()
    assert quantizer(-torch.rand(100)).abs().max() == 0


@pytest.mark.parametrize("training", [True, False])
def test_memory_formats_agree(seed, training):
    x = torch.rand(4, 8, 6, 5) * 2
    quantizer = LQActivation(2).train(training)
    results, bases = [], []
    for variant in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        twin = copy.deepcopy(quantizer)
        results.append(twin(variant))
        bases.append(twin.basis)
    assert results[1].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    torch.testing.assert_close(bases[0], bases[1])


def test_evaluation_gives_exact_levels_and_does_not_learn(seed):
    quantizer = LQActivation(3)
    quantizer(torch.rand(1000))
    quantizer.eval()
    before = quantizer.basis.clone()
    levels = set(quantizer.levels().values[0].tolist())
    assert set(quantizer(torch.rand(1000) * 3).tolist()) <= levels
    assert torch.equal(before, quantizer.basis)


@pytest.mark.parametrize("symmetric", [True, False])
def test_snap_gives_exact_integers_and_freezes(seed, symmetric):
    x = torch.randn(8, 500)
    quantizer = LQWeight(3, x) if symmetric else LQActivation(3)
    for _ in range(5):
        quantizer(x)
    before = quantizer.vectors()
    quantizer.snap(127 if symmetric else 255)
    assert torch.equal(quantizer.basis, quantizer.basis.round())
    torch.testing.assert_close(quantizer.vectors(), before, rtol=0.02, atol=0.02 * before.abs().max().item())
    frozen = quantizer.basis.clone()
    result = quantizer(x)
    assert torch.equal(frozen, quantizer.basis)
    scale = quantizer.scale[:, None] if symmetric else quantizer.scale
    integers = result.double() / scale.double()
    assert torch.equal(integers, integers.round())


def test_state_dict_and_deepcopy_carry_everything(seed):
    quantizer = LQActivation(2)
    quantizer(torch.rand(100))
    quantizer.snap(31)
    fresh = LQActivation(2)
    fresh.load_state_dict(quantizer.state_dict())
    twin = copy.deepcopy(quantizer)
    x = torch.rand(50) * 2
    assert fresh.integer and twin.integer
    assert torch.equal(fresh(x), quantizer(x)) and torch.equal(twin(x), quantizer(x))
    assert "integer" in repr(quantizer)


def test_other_dtypes_keep_their_dtype(seed):
    for dtype in (torch.bfloat16, torch.float64):
        assert LQActivation(2)(torch.rand(10, dtype=dtype)).dtype == dtype


def test_an_infinite_input_does_not_hide(seed):
    quantizer = LQActivation(2)
    quantizer(torch.tensor([1.0, float("inf")]))
    assert not torch.isfinite(quantizer.basis).all()
