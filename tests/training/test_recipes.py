import tomllib

import pytest
import tomli_w

from lqcompile import models
from lqcompile.errors import TrainingError
from lqcompile.training import recipes
from lqcompile.training.recipes import load_recipe

CONTENT = {
    "epochs": 4,
    "network": {"name": "vgg_small"},
    "data": {"set": "cifar10"},
    "optimizer": {"lr": 0.1},
    "snap": {"epochs": 2},
}


@pytest.fixture
def write(tmp_path):
    """Writes a recipe, with some keys changed or (None) left out."""

    def write(**changes):
        content = {key: value for key, value in (CONTENT | changes).items() if value is not None}
        path = tmp_path / "mine.toml"
        path.write_text(tomli_w.dumps(content))
        return path

    return write


@pytest.mark.parametrize("name", recipes.names())
def test_shipped_recipes_are_whole(name):
    recipe = load_recipe(name)
    assert recipe.network.name in models.NETWORKS and recipe.description
    # What is stored in the folder of a run says the same.
    content = tomllib.loads(tomli_w.dumps(recipe.model_dump(mode="json", exclude_none=True)))
    assert type(recipe).model_validate(content) == recipe


def test_keys_can_be_set(write):
    recipe = load_recipe(
        write(), ["optimizer.lr=0.25", "network.name=resnet20", 'data.augment="flip"', "seed=7", "data.limit=5"]
    )
    assert (recipe.optimizer.lr, recipe.network.name, recipe.data.augment) == (0.25, "resnet20", "flip")
    assert (recipe.seed, recipe.data.limit, recipe.epochs) == (7, 5, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", r"^--set lr: found no key=value, expected one, such as optimizer\.lr=0\.01$"),
        ("epochs.last=1", r"^--set epochs\.last=1: found that 'epochs' is a value, expected a section of the recipe$"),
        ("optimizer.rate=1", "found unknown key 'optimizer.rate', expected one of clip_norm, kind, lr, momentum"),
    ],
)
def test_overrides_that_do_not_fit(write, override, message):
    with pytest.raises(TrainingError, match=message):
        load_recipe(write(), [override])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "mine.toml': found unknown key 'epoch', expected one of bn_batches, data, description"),
        ({"network": {"name": "x", "bits": 2}}, r"found unknown key 'network\.bits', expected one of act_bits, basis,"),
        ({"snap": {"epoch": 2}}, r"found unknown key 'snap\.epoch', expected one of act_limit, epochs, weight_limit"),
        ({"optimizer": {}}, r"mine.toml': found no 'optimizer\.lr', expected one; add it"),
        ({"data": None}, "mine.toml': found no 'data', expected one; add it"),
        ({"epochs": "4"}, "found epochs = '4', expected integer"),
        ({"epochs": 0}, "found epochs = 0, expected greater than or equal to 1"),
        ({"optimizer": {"lr": -1.0}}, r"found optimizer\.lr = -1\.0, expected greater than 0"),
        ({"precision": "fp8"}, "found precision = 'fp8', expected 'float32', 'bf16' or 'fp16'"),
        ({"network": {"name": "x", "weight_bits": 5}}, r"found network\.weight_bits = 5, expected 1, 2, 3, 4 or 32"),
        ({"snap": {"epochs": 4}}, r"mine.toml': found snap\.epochs=4, expected fewer than epochs=4"),
        ({"snap": None}, r"found network\.basis='int8' and no \[snap\] section; integer bases need it, float ones"),
        (
            {"network": {"name": "x", "basis": "float"}},
            r"found network\.basis='float' and a \[snap\] section; .* float ones must not have it",
        ),
        ({"network": {"name": "x", "weight_bits": 32}}, r"found a \[snap\] section with network\.weight_bits=32"),
        (
            {"network": {"name": "a.py:A", "options": {"width": 0.5}}},
            r"network: found options \['width'\] with a network of one's own",
        ),
        ({"network": {"name": "x", "skip": ["stem"]}}, "network: found skip with a network of lqcompile"),
        (
            {"schedule": {"kind": "step"}},
            r"schedule: found kind='step' with milestones \[\]; steps need them, only they",
        ),
        ({"schedule": {"milestones": [1]}}, r"schedule: found kind='constant' with milestones \[1\]"),
        ({"schedule": {"kind": "step", "milestones": [2, 1]}}, r"found milestones \[2, 1\], expected them to rise"),
        ({"schedule": {"kind": "step", "milestones": [1, 4]}}, r"found schedule\.milestones up to 4, expected fewer"),
        ({"schedule": {"kind": "one-cycle", "warmup_epochs": 1}}, "found warmup_epochs with kind='one-cycle'"),
        ({"schedule": {"warmup_epochs": 5.0}}, r"found schedule\.warmup_epochs=5\.0, expected at most epochs=4"),
    ],
)
def test_recipes_that_are_refused(write, changes, message):
    with pytest.raises(TrainingError, match=message) as caught:
        load_recipe(write(**changes))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_recipes(tmp_path):
    with pytest.raises(
        TrainingError, match="recipe 'none': found neither a file nor a recipe of this name; known recip"
    ):
        load_recipe("none")
    path = tmp_path / "x.toml"
    path.write_text("epochs = ")
    with pytest.raises(TrainingError, match=r"x.toml': found no TOML \(Invalid value.*\), expected a recipe"):
        load_recipe(path)
