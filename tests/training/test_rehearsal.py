"""What a run says of a network of one's own before it trains."""

import numpy as np
import pytest
import tomli_w
from tiny_training import arrays

from lqcompile.errors import QuantizationError
from lqcompile.training import load_recipe, run

HEAD = "from torch import nn\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
NETWORKS = {
    "compiles": HEAD + "        super().__init__(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))\n",
    "has_gelu": HEAD + "        super().__init__(nn.Conv2d(1, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 3))\n",
    "branches": HEAD
    + "        super().__init__(nn.Flatten(), nn.Linear(64, 3))\n"
    + "    def forward(self, x):\n        return super().forward(x if float(x.sum()) > 0 else -x)\n",
}


@pytest.fixture
def train(tmp_path):
    """Trains one of the networks for an epoch; two of its layers are the first and the last."""
    for part, name in enumerate(("train", "test")):
        images, labels = arrays(part, 32)
        np.savez(tmp_path / f"{name}.npz", images=images, labels=labels)

    def train(name):
        (tmp_path / f"{name}.py").write_text(NETWORKS[name])
        recipe = tmp_path / "recipe.toml"
        network = {"name": f"{tmp_path / name}.py:Net", "weight_bits": 32}
        content = {"epochs": 1, "network": network, "data": {"set": "npz", "batch": 32}, "optimizer": {"lr": 0.01}}
        recipe.write_text(tomli_w.dumps(content))
        return run.train(load_recipe(recipe), data=tmp_path, output=tmp_path / "run", threads=1)

    return train


def said(caplog):
    """Messages of lqcompile alone: torch logs as well."""
    return [record.getMessage() for record in caplog.records if record.name.startswith("lqcompile")]


class TrainingStartsError(Exception):
    """Raised where the first epoch would begin."""


def test_an_operator_that_does_not_compile_is_named_before_the_first_epoch(train, caplog, monkeypatch):
    def fit(*_args, **_options):
        raise TrainingStartsError

    monkeypatch.setattr(run, "fit", fit)
    with pytest.raises(TrainingStartsError):
        train("has_gelu")
    (message,) = said(caplog)
    assert message.startswith("training: the exported network will not compile: node 'node_gelu' (Gelu): found an ")


def test_a_network_that_compiles_is_trained_without_a_word(train, caplog):
    assert set(train("compiles").files) == {"best.onnx", "final.onnx"}
    assert not said(caplog)


def test_a_network_that_cannot_be_exported_is_refused_before_the_first_epoch(train, tmp_path):
    with pytest.raises(QuantizationError, match="model Net: torch cannot export it with a dynamic batch"):
        train("branches")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
