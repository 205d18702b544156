"""Training by recipes (PyTorch): data sets, schedules, checkpoints, logs.

    recipe = load_recipe("fashion-mnist-w2a2")
    result = fit(model, recipe, load_data(recipe.data, "folder/with/the/data"))

See docs/training.md.
"""

from lqcompile.training.data import Arrays, Data, Samples, Source, load_data
from lqcompile.training.evaluation import Evaluation, evaluate
from lqcompile.training.fit import Result, fit
from lqcompile.training.history import Epoch
from lqcompile.training.loop import Step
from lqcompile.training.recipe import DataOptions, Distillation, Network, Optimizer, Recipe, Schedule, Snap
from lqcompile.training.recipes import load_recipe

__all__ = [
    "Arrays",
    "Data",
    "DataOptions",
    "Distillation",
    "Epoch",
    "Evaluation",
    "Network",
    "Optimizer",
    "Recipe",
    "Result",
    "Samples",
    "Schedule",
    "Snap",
    "Source",
    "Step",
    "evaluate",
    "fit",
    "load_data",
    "load_recipe",
]
