import pytest
import torch
from tiny_training import data, make, recipe

from lqcompile.errors import TrainingError
from lqcompile.nn import quantize
from lqcompile.training import Optimizer, fit
from lqcompile.training.checkpoint import load_checkpoint, load_into, load_state, save_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of two epochs."""
    folder = tmp_path_factory.mktemp("run")
    fit(make(), recipe(epochs=2), data(0), folder=folder)
    return folder


def test_a_checkpoint_of_another_recipe_is_refused(folder):
    path = folder / "checkpoint.pt"
    assert len(load_checkpoint(path, recipe(epochs=2, description="other words")).history) == 2
    with pytest.raises(
        TrainingError, match=r"checkpoint.pt': found optimizer\.lr = 0\.05, expected 0\.5 as in the recipe; go on with"
    ):
        load_checkpoint(path, recipe(epochs=2, optimizer=Optimizer(lr=0.5)))


def test_a_checkpoint_of_another_network_is_refused(folder):
    other = torch.nn.Sequential(torch.nn.Conv2d(1, 5, 3, bias=False), torch.nn.Flatten(), torch.nn.Linear(180, 3))
    message = (
        r"checkpoint.pt': found '0.weight' \[4, 1, 3, 3\], expected \[5, 1, 3, 3\]: it is of another network; give"
    )
    with pytest.raises(TrainingError, match=message):
        fit(other, recipe(epochs=2), data(0), folder=folder, resume=True)
    with pytest.raises(
        TrainingError, match=r"found '0\.act_quantizer\.low' missing, expected \[\]: it is of another net"
    ):
        load_into(quantize(make(), edge_bits=8), load_state(folder / "final.pt"), folder / "final.pt")


def test_files_that_are_no_checkpoints(folder, tmp_path):
    plan = recipe(epochs=2)
    with pytest.raises(TrainingError, match=r"none\.pt': found no such file, expected one; check the folder"):
        load_checkpoint(tmp_path / "none.pt", plan)
    whole = (folder / "checkpoint.pt").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(TrainingError, match=r"x\.pt': cannot read it \(.*\); give an undamaged one, or start anew"):
            load_checkpoint(tmp_path / "x.pt", plan)
    torch.save([1, 2], tmp_path / "x.pt")
    with pytest.raises(TrainingError, match=r"x\.pt': found list, expected tensors by name"):
        load_state(tmp_path / "x.pt")
    save_state({"format": 0}, tmp_path / "x.pt")
    with pytest.raises(TrainingError, match=r"x\.pt': found format 0, expected 1; start the run anew"):
        load_checkpoint(tmp_path / "x.pt", plan)


def test_pickled_code_is_not_run(tmp_path):
    torch.save({"model": make()}, tmp_path / "x.pt")
    with pytest.raises(TrainingError, match="cannot read it"):
        load_state(tmp_path / "x.pt")


def test_a_low_bit_network_starts_from_its_twin(folder, seed):
    model = quantize(make(), edge_bits=8)
    bases = {name: value.clone() for name, value in model.state_dict().items() if "quantizer" in name}
    state = load_state(folder / "final.pt")
    load_into(model, state, folder / "final.pt", from_twin=True)
    found = model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert all(torch.equal(found[name], value) for name, value in bases.items()) and bases
