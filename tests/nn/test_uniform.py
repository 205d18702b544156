import numpy as np
import pytest
import torch

from lqcompile.errors import QuantizationError
from lqcompile.nn.dorefa import PACTActivation
from lqcompile.nn.lsq import LSQActivation
from lqcompile.nn.uniform import best_step, quantize_uniform, round_step


def reference(x, step, low, high, shift, inner, grad):
    """Value, gradient of x and gradient of the step in NumPy, element by element (LSQ, equations 1 to 3)."""
    values, slopes, step_grad = [], [], 0.0
    for value, weight in zip(x, grad, strict=True):
        position = value / step + shift
        if position <= low or position >= high:
            end = low if position <= low else high
            values.append((end - shift) * step)
            slopes.append(weight if position in (low, high) else 0.0)
            step_grad += weight * (end - shift) if position not in (low, high) else 0.0
        else:
            values.append((np.rint(position) - shift) * step)
            slopes.append(weight)
            step_grad += weight * (np.rint(position) - position) if inner else 0.0
    return np.array(values), np.array(slopes), step_grad


@pytest.mark.parametrize(("low", "high", "shift"), [(0, 3, 0.0), (-2, 1, 0.0), (0, 1, 0.5)])
@pytest.mark.parametrize("inner", [True, False])
def test_values_and_gradients(seed, low, high, shift, inner):
    x = torch.randn(400, dtype=torch.float64, requires_grad=True)
    step = torch.tensor(0.37, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(400, dtype=torch.float64)
    result = quantize_uniform(x, step, low, high, shift, inner=inner)
    result.backward(grad)
    values, slopes, step_grad = reference(x.detach().numpy(), 0.37, low, high, shift, inner, grad.numpy())
    assert np.array_equal(result.detach().numpy(), values)
    assert np.array_equal(x.grad.numpy(), slopes)
    assert step.grad.item() == pytest.approx(step_grad)


def test_steps_are_positive_and_exact():
    raw = torch.tensor([0.3, -0.3, 0.0], requires_grad=True)
    step = round_step(raw)
    assert step[0] == step[1] > 0 and step[2] > 0
    mantissa, _ = torch.frexp(step.double())
    assert torch.equal(mantissa * 65536, (mantissa * 65536).round())
    step.sum().backward()
    assert raw.grad.tolist() == [1, 1, 1]


@pytest.mark.parametrize("kind", [LSQActivation, PACTActivation])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_evaluation_follows_levels_and_thresholds(seed, kind, bits):
    quantizer = kind(bits)
    quantizer(torch.rand(8, 50) * 3)
    quantizer.eval()
    levels, coding = quantizer.levels(), quantizer.coding()
    exact = coding.offset + coding.scale * (coding.basis * ((levels.codes[0][:, None] >> torch.arange(bits)) & 1)).sum(
        1
    )
    assert torch.equal(levels.values[0], exact) and coding.integer
    thresholds = levels.thresholds[0]
    # A value on a threshold belongs to the level below it, the next float to the one above.
    assert torch.equal(quantizer(thresholds), levels.values[0, :-1])
    assert torch.equal(quantizer(torch.nextafter(thresholds, torch.tensor(torch.inf))), levels.values[0, 1:])
    assert quantizer(torch.tensor([-1.0, 1e9])).tolist() == [0, levels.values[0, -1]]


@pytest.mark.parametrize("kind", [LSQActivation, PACTActivation])
def test_bits_out_of_range(kind):
    with pytest.raises(QuantizationError, match="act_bits: found 5, expected 1 to 4; leave the layer in float"):
        kind(5)


@pytest.mark.parametrize(("low", "high", "shift"), [(0, 3, 0.0), (-2, 1, 0.0), (0, 3, 1.5)])
def test_no_other_step_is_much_better_than_the_best(seed, low, high, shift):
    rows = torch.randn(3, 500) if shift or low else torch.randn(3, 500).relu()
    best = best_step(rows, low, high, shift)

    def error(step, row):
        return float((quantize_uniform(row, step, low, high, shift, inner=True) - row).square().sum())

    for row, step in zip(rows, best, strict=True):
        least = min(error(other, row) for other in torch.linspace(0.02, 4, 800))
        assert error(step, row) <= 1.001 * least
