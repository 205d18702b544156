import random

import pytest

torch = pytest.importorskip("torch")


@pytest.fixture
def seed():
    """A fresh seed, printed so that a failure can be repeated; torch is seeded with it."""
    value = random.randrange(1 << 31)  # noqa: S311 - test data
    print(f"seed {value}")  # noqa: T201 - pytest shows it when the test fails
    torch.manual_seed(value)
    return value
