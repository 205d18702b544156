"""A network as others publish them, after MobileNetV2: depthwise layers and linear bottlenecks, from torch to proof."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from lqcompile.build import build  # noqa: E402
from lqcompile.nn import calibrate, export, quantize  # noqa: E402
from lqcompile.runtime import load  # noqa: E402
from lqcompile.verify import verify  # noqa: E402


class Block(nn.Module):
    """1x1 to more channels, depthwise 3x3, 1x1 back without activation, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 3 * channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float[N, C, H, W] -> the same."""
        return x + self.layers(x)


def test_depthwise_layers_stay_in_float_and_the_table_says_so(tmp_path: Path, shared_target: str) -> None:
    seed = int(np.random.default_rng().integers(1 << 31))
    print(f"seed {seed}")  # noqa: T201 - pytest shows it when the test fails
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
    model = nn.Sequential(*stem, Block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))
    model(torch.randn(8, 3, 16, 16))  # statistics of the batch normalizations
    quantize(model, 2, 2, skip=("first", "last", "depthwise"), edge_bits=8, basis="int8")
    images = torch.randn(4, 3, 16, 16)
    calibrate(model, [images], max_passes=1)
    export(model.eval(), images, tmp_path / "model.onnx")
    report = build(tmp_path / "model.onnx", target=shared_target, output=tmp_path / "model.tar")
    assert [layer["weight_bits"] for layer in report.layers] == [8, 2, 32, 2, 8]
    assert (report.layers[2]["kernel"], report.layers[2]["reason"]) == ("float", "weights are float32")
    compiled = load(tmp_path / "model.tar")
    result = verify(tmp_path / "model.onnx", compiled, {compiled.inputs[0].name: images.numpy()}).to_json()
    assert result["passed"]
    assert (result["forced"]["integer_mismatches"], result["forced"]["mismatches"]) == (0, 0)
