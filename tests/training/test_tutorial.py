"""The files of docs/tutorial.md are what it says they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lqcompile.nn import LQConv2d
from lqcompile.training import load_data, load_recipe
from lqcompile.training.evaluation import check_network
from lqcompile.training.networks import make_network

TEXT = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files of the tutorial, and with fewer of its images."""
    blocks = re.findall(r"```(?:python|toml)\n(.*?)```", TEXT, re.DOTALL)
    names = re.findall(r"`(make_data\.py|net\.py|float\.toml|low\.toml)`", TEXT)
    for name, block in zip(dict.fromkeys(names), blocks, strict=False):
        (tmp_path / name).write_text(block.replace("8000", "128").replace("1000", "64"))
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "make_data.py"], check=True, timeout=120)
    return tmp_path


def test_its_files_make_networks_that_take_its_data(folder):
    twin, low = load_recipe("float.toml"), load_recipe("low.toml")
    data = load_data(twin.data, "data")
    assert (data.shape, data.classes, len(data.train), len(data.test)) == ((3, 32, 32), 4, 128, 64)
    for recipe, count in ((twin, 0), (low, 2)):
        torch.manual_seed(0)
        model = make_network(recipe.network, data)
        check_network(model, data.test)
        assert sum(isinstance(module, LQConv2d) for module in model.modules()) == count
