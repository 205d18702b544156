"""Random graphs: whatever the plan makes of them, ONNX Runtime computes the same."""

from __future__ import annotations

import numpy as np
import pytest

from tests.graph.planning import check_against_onnxruntime, plan_of
from tests.models import Builder


def random_model(rng):
    builder = Builder(rng, (4, 6, 6))
    names = ["x"]
    for _ in range(int(rng.integers(6, 20))):
        # Recent values more often, so that chains grow as well as branches.
        source = names[max(len(names) - 1 - int(rng.exponential(1.2)), 0)]
        builder.at(source)
        others = [name for name in names if builder.shapes[name] == builder.shape]
        image = [name for name in names if builder.shapes[name][1:] == builder.shape[1:]]
        choice = str(rng.choice(CHOICES))
        if choice == "add":
            builder.add(str(rng.choice(others)))
        elif choice == "multiply":
            gates = [name for name in names if builder.shapes[name] == (builder.shape[0], 1, 1)]
            builder.multiply(str(rng.choice(others + gates)))
        elif choice == "activation":
            builder.activation(str(rng.choice(["HardSwish", "HardSigmoid", "LeakyRelu", "PRelu"])))
        elif choice == "concat":
            builder.concat(str(rng.choice(image)))
        elif choice == "max_pool":
            builder.max_pool(2, int(rng.integers(1, 3)) if min(builder.shape[1:]) > 3 else 1, 1)
        elif choice == "average_pool":
            builder.average_pool(3, 1, 1, int(rng.integers(2)))
        elif choice == "conv":
            builder.conv(int(rng.integers(2, 6)), bits=int(rng.integers(1, 4)), offset=bool(rng.integers(2)))
        elif choice == "quantize":
            builder.quantize(int(rng.integers(1, 4)), offset=float(rng.choice([0.0, 0.3])))
        elif choice == "per_channel":
            builder.per_channel(str(rng.choice(["Add", "Sub", "Mul", "Div"])))
        elif choice in ("conv8", "conv_float"):
            getattr(builder, choice)(int(rng.integers(2, 6)))
        else:
            getattr(builder, choice)()
        names.append(builder.value)
    extra = [str(name) for name in rng.choice(names[1:-1], 2, replace=False)]
    return builder.build(extra)


CHOICES = (
    ["quantize"] * 4
    + ["conv"] * 4
    + ["batch_norm", "relu", "add"] * 2
    + ["concat", "max_pool", "average_pool", "per_channel", "quantize8", "conv8", "conv_float"]
    + ["multiply", "activation", "activation"]
)


@pytest.mark.parametrize("number", range(20))
def test_random_graph(number):
    seed = int(np.random.default_rng().integers(2**32))
    print(f"graph {number}: seed={seed}")  # noqa: T201
    rng = np.random.default_rng(seed)
    model = random_model(rng)
    check_against_onnxruntime(model, plan_of(model), rng)
