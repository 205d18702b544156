import copy
import shutil

import pytest
import torch
import torch._dynamo
from torch import nn

from lqcompile.nn import quantize


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler")
def test_compiled_evaluation_equals_eager(seed):
    model = quantize(net(), edge_bits=8)
    model(torch.randn(16, 1, 8, 8))
    model.eval()
    x = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model)(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_compiled_training_step_equals_eager(seed):
    # Without code generation: what is tested is that the graph captures learning and gradient.
    model = quantize(net())
    twin = copy.deepcopy(model)
    x = torch.randn(16, 1, 8, 8)
    model(x).square().sum().backward()
    torch.compile(twin, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(twin.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(twin.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-3)
