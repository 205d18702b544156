import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lqcompile.encoding import activation_levels, encode, midpoint_thresholds
from lqcompile.errors import QuantizationError
from lqcompile.nn import LQActivation, calibrate, quantize
from lqcompile.nn.calibrate import fit_rows
from lqcompile.nn.qem import quantize_exact
from lqcompile.nn.quantizer import LQWeight


def net():
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(8 * 16, 3)),
    )


def relative_error(x, quantizer):
    rows = x.reshape(len(quantizer.basis), -1)
    return float((quantize_exact(rows, quantizer.levels()) - rows).square().mean() / rows.square().mean())


@pytest.mark.parametrize(("bits", "limit"), [(1, 0.40), (2, 0.13), (3, 0.045), (4, 0.015)])
def test_fit_of_gaussian_weights_is_near_the_best_known(seed, bits, limit):
    # Lloyd-Max errors of a Gaussian are 0.363, 0.118, 0.035, 0.010; a basis has fewer degrees of freedom.
    weight = torch.randn(8, 4000) * 3
    quantizer = LQWeight(bits, weight)
    fit_rows(quantizer, weight)
    assert relative_error(weight, quantizer) < limit


def test_fit_does_not_depend_on_scale(seed):
    x = torch.rand(1, 2000)
    errors = []
    for factor in (1e-3, 1.0, 1e3):
        quantizer = LQActivation(2)
        fit_rows(quantizer, factor * x)
        errors.append(relative_error(factor * x, quantizer))
    assert errors == pytest.approx([errors[1]] * 3, rel=1e-3)


def test_a_fixed_point_of_least_squares_over_all_batches(seed):
    data = 5 * torch.randn(256, 1, 8, 8) + 2
    model = quantize(net())
    calibrate(model, data.split(64), tolerance=1e-5, max_passes=40)
    quantizer = model[3].act_quantizer
    with torch.no_grad():
        x = model.eval()[:3](data).numpy().ravel().astype(np.float64)
    basis = quantizer.basis[0].double().numpy()
    levels, codes = activation_levels(basis)
    chosen = codes[encode(x, midpoint_thresholds(levels))]
    matrix = np.stack([chosen & 1, chosen >> 1 & 1], 1).astype(np.float64)
    np.testing.assert_allclose(np.linalg.lstsq(matrix, x, rcond=None)[0], basis, rtol=2e-3)


def test_accepts_loaders_and_restores_modes(seed):
    model = quantize(net(), edge_bits=8)
    model[1].eval()
    loader = DataLoader(TensorDataset(torch.rand(20, 1, 8, 8) * 3 - 1, torch.zeros(20)), batch_size=8)
    running = model[1].running_mean.clone()
    assert calibrate(model, loader, batches=2) is model
    assert model.training and model[3].act_quantizer.training and not model[1].training
    assert torch.equal(running, model[1].running_mean)
    seen = torch.cat([batch for batch, _ in loader][:2])
    assert model[0].act_quantizer.high == seen.max() and model[0].act_quantizer.low == seen.min()


@pytest.mark.parametrize("basis", ["float", "int8"])
def test_int8_bases_are_snapped_at_the_end(seed, basis):
    model = calibrate(quantize(net(), basis=basis), [torch.randn(32, 1, 8, 8)])
    assert model[3].act_quantizer.integer == (basis == "int8")
    assert model[3].weight_quantizer.integer == (basis == "int8")


def test_bases_are_snapped_within_limits(seed):
    model = calibrate(quantize(net(), basis="int8"), [torch.randn(32, 1, 8, 8)], weight_limit=7, act_limit=15)
    assert model[3].weight_quantizer.basis.abs().sum(1).max() <= 7
    assert model[3].act_quantizer.basis.abs().sum(1).max() <= 15
    with pytest.raises(QuantizationError, match="act_limit: found 256, expected 1 to 255"):
        calibrate(quantize(net(), basis="int8"), [torch.randn(32, 1, 8, 8)], act_limit=256)


def test_calibration_brings_the_output_close(seed):
    x = torch.randn(64, 1, 8, 8)
    model = net().eval()
    expected = model(x)
    quantize(model, 4, 4)
    before = (model(x) - expected).square().mean()
    after = (calibrate(model, [x])(x) - expected).square().mean()
    assert after < 0.05 * expected.var() and after < before


@pytest.mark.parametrize("loader", [[], iter([torch.randn(4, 1, 8, 8)])])
def test_data_that_ends_early(loader):
    with pytest.raises(QuantizationError, match="calibration data: found no batch, expected at least one on every"):
        calibrate(quantize(net()), loader)


def test_needs_a_quantized_model():
    with pytest.raises(QuantizationError, match="model Sequential: found no quantized layer; call quantize first"):
        calibrate(net(), [torch.randn(4, 1, 8, 8)])
