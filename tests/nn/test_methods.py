import numpy as np
import pytest
import torch
from torch import nn

from lqcompile import cpu
from lqcompile.build import build
from lqcompile.errors import QuantizationError
from lqcompile.nn import LQActivation, LQConv2d, calibrate, export, quantize, snap
from lqcompile.nn.dorefa import DoReFaWeight, PACTActivation
from lqcompile.nn.lsq import LSQActivation, LSQWeight
from lqcompile.nn.quantizer import LQWeight
from lqcompile.nn.uniform import best_step
from lqcompile.runtime import load
from lqcompile.verify import verify

METHODS = {
    "lq": (LQWeight, LQActivation),
    "lsq": (LSQWeight, LSQActivation),
    "dorefa-pact": (DoReFaWeight, PACTActivation),
}


def net(width=9):
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
        *(nn.Conv2d(width, 11, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(11), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(11 * 16, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3)),
    )


def trained(method, weight_bits, act_bits):
    """A few steps, after which no parameter is what it was."""
    model = quantize(net(), weight_bits, act_bits, edge_bits=8, method=method)
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    for _ in range(4):
        loss = nn.functional.cross_entropy(model(torch.randn(32, 1, 8, 8)), torch.randint(0, 3, (32,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("method", METHODS)
def test_every_layer_gets_the_quantizers_of_the_method(method):
    model = quantize(net(), 3, 2, method=method)
    layers = [module for module in model.modules() if hasattr(module, "weight_quantizer")]
    assert len(layers) == 2
    for layer in layers:
        assert (type(layer.weight_quantizer), type(layer.act_quantizer)) == METHODS[method]
        assert (layer.weight_quantizer.bits, layer.act_quantizer.bits) == (3, 2)


@pytest.mark.parametrize("method", ["lsq", "dorefa-pact"])
def test_every_trained_part_gets_a_gradient(seed, method):
    model = quantize(net(), 2, 2, method=method)
    model(torch.randn(16, 1, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.skipif(
    cpu.machine() != "x86_64" or "avx2" not in cpu.cpu_features(), reason="this CPU does not run x86-avx2"
)
@pytest.mark.parametrize(("method", "bits"), [("lsq", (2, 2)), ("dorefa-pact", (3, 1))])
def test_uniform_codes_export_and_compile_exactly(seed, tmp_path, method, bits):
    model = trained(method, *bits)
    x = torch.randn(5, 1, 8, 8)
    # The gate of the export compares ONNX Runtime with torch, each quantizer exactly.
    export(model, x, tmp_path / "net.onnx")
    build(tmp_path / "net.onnx", target="x86-avx2", output=tmp_path / "net.tar")
    report = verify(tmp_path / "net.onnx", load(tmp_path / "net.tar"), {"input": x.numpy().astype(np.float32)})
    assert report.passed


def test_uniform_steps_survive_a_checkpoint(seed):
    model = trained("lsq", 2, 2)
    fresh = quantize(net(), 2, 2, edge_bits=8, method="lsq")
    fresh.load_state_dict(model.state_dict())
    x = torch.randn(5, 1, 8, 8)
    assert torch.equal(fresh.eval()(x), model(x))
    assert fresh[3].act_quantizer.started == 1


def test_snapping_leaves_uniform_steps_as_they_are(seed):
    model = trained("dorefa-pact", 2, 2)
    before = {name: value.clone() for name, value in model.named_parameters()}
    assert snap(model) is model
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())


@pytest.mark.parametrize("method", ["lsq", "dorefa-pact"])
def test_calibration_sets_the_steps_of_the_smallest_error(seed, method):
    model = quantize(net(), 2, 2, method=method)
    x = 3 * torch.randn(64, 1, 8, 8)
    calibrate(model, [x])
    with torch.no_grad():
        values = model.eval()[:3](x)
        quantizer = model[3].act_quantizer
        assert quantizer.started == 1
        assert quantizer.step() == pytest.approx(best_step(values.reshape(1, -1), 0, 3).item(), rel=0.05)
        if method == "lsq":
            weights = model[3].weight.reshape(1, -1)
            assert model[3].weight_quantizer.step() == pytest.approx(best_step(weights, -2, 1).item(), rel=1e-4)


def test_integer_bases_of_a_grid_with_an_offset():
    with pytest.raises(
        QuantizationError, match="basis: found 'int8' with method='lsq' and weight_bits=2, expected 'fl"
    ):
        quantize(net(), 2, 2, basis="int8", method="lsq")
    quantize(net(), 1, 2, basis="int8", method="lsq")


def test_unknown_method():
    with pytest.raises(QuantizationError, match="method: found 'pact', expected one of lq, dorefa-pact, lsq"):
        quantize(net(), method="pact")
    with pytest.raises(QuantizationError, match="method: found 'pact', expected one of lq, dorefa-pact, lsq"):
        LQConv2d(1, 1, 1, method="pact")
