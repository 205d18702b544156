import torch
from tiny_training import make

from lqcompile.nn import quantize
from lqcompile.training.average import Average


def test_follows_floats_and_copies_counters(seed):
    model = quantize(make(), edge_bits=8)
    average = Average(model, 0.5)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for step in range(1, 4):
        model(torch.rand(4, 1, 8, 8))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value.double()
            else:
                expected[name] = value.double()
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-4, atol=1e-6, msg=name)
