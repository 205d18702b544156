"""Layers by `torch._int_mm` against int8 arithmetic written a second time, in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import fx, nn  # noqa: E402

from lqcompile.gpu_bench.int8 import MOST, Int8Layer, to_int8  # noqa: E402


def quantized(layer: nn.Module, x: torch.Tensor, largest: float) -> torch.Tensor:
    """What an int8 layer computes: convolution of the dequantized codes, exact in float64."""
    weight = layer.weight.detach()
    scale = weight.abs().flatten(1).amax(1) / MOST
    per_channel = scale.reshape(-1, *[1] * (weight.ndim - 1))
    double = copy.deepcopy(layer).double()
    double.weight = nn.Parameter(torch.round(weight / per_channel).double() * per_channel.double())
    act_scale = largest / MOST
    codes = torch.clamp(torch.round(x / act_scale), -MOST, MOST)
    return double(codes.double() * act_scale)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(5, 7, 3, stride=(2, 1), padding=(1, 2), dilation=(1, 2)), (2, 5, 9, 11)),
        (nn.Conv2d(32, 16, 1, bias=False), (3, 32, 4, 4)),
        (nn.Conv2d(3, 64, 7, stride=2, padding=3), (1, 3, 21, 21)),
        (nn.Linear(45, 10), (1, 45)),
        (nn.Linear(64, 10, bias=False), (70, 64)),
    ],
    ids=str,
)
def test_a_layer_is_its_int8_arithmetic(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    x = torch.randn(shape).half()
    x = x.to(memory_format=torch.channels_last) if x.ndim == 4 else x
    largest = 0.8 * float(x.abs().max())  # some values are cut off
    with torch.inference_mode():
        found = Int8Layer(layer, largest)(x)
        expected = quantized(layer, x, largest)
    assert found.dtype == torch.float16 and found.shape == expected.shape
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=2e-3, atol=2e-3)


def test_products_are_as_cublaslt_takes_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than 16 rows, depth and columns multiples of 8, the second operand with its depth contiguous."""
    product, seen = torch._int_mm, []

    def note(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        seen.append((tuple(first.shape), tuple(second.shape), first.is_contiguous(), second.stride()[0]))
        return product(first, second)

    monkeypatch.setattr(torch, "_int_mm", note)
    Int8Layer(nn.Linear(45, 10), 1.0)(torch.zeros(1, 45).half())
    Int8Layer(nn.Conv2d(3, 9, 3), 1.0)(torch.zeros(1, 3, 8, 9).half())
    assert seen == [((32, 48), (48, 16), True, 1), ((42, 32), (32, 16), True, 1)]


def test_a_network_keeps_its_grouped_layers() -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3, groups=8)
            self.last = nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.relu(self.second(torch.relu(self.first(x)))).mean((2, 3)))

    torch.manual_seed(4)
    module, x = fx.symbolic_trace(Network().eval()), torch.randn(3, 4, 9, 9)
    expected = module(x).detach()
    assert to_int8(module, [x]) == (2, 1)
    assert isinstance(module.first, Int8Layer) and isinstance(module.last, Int8Layer)
    assert module.second.weight.dtype == torch.float16
    found = module(x.half()).detach().float()
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.995
