import pytest
import torch
from tiny_training import recipe

from lqcompile.training import Optimizer, Schedule
from lqcompile.training.optimizer import make_optimizer, set_rates
from lqcompile.training.schedule import learning_rate, momentum

STEPS, EPOCHS = 7, 5
TOTAL = STEPS * EPOCHS
schedulers = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("schedule", "make"),
    [
        (Schedule(), lambda opt: schedulers.ConstantLR(opt, factor=1.0)),
        (
            Schedule(kind="step", milestones=(2, 4), factor=0.2),
            lambda opt: schedulers.MultiStepLR(opt, [2 * STEPS, 4 * STEPS], 0.2),
        ),
        (Schedule(kind="linear", final=0.25), lambda opt: schedulers.LinearLR(opt, 1.0, 0.25, TOTAL)),
        (Schedule(kind="cosine"), lambda opt: schedulers.CosineAnnealingLR(opt, TOTAL)),
        (
            Schedule(kind="cosine", warmup_epochs=1.0),
            lambda opt: schedulers.LambdaLR(
                opt,
                lambda step: min(1, (step + 1) / STEPS) * (1 + torch.tensor(torch.pi * step / TOTAL).cos().item()) / 2,
            ),
        ),
        (Schedule(kind="one-cycle"), lambda opt: schedulers.OneCycleLR(opt, 0.3, total_steps=TOTAL)),
    ],
    ids=["constant", "step", "linear", "cosine", "cosine with warm-up", "one-cycle"],
)
@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_rates_are_those_of_torch(schedule, make, kind):
    plan = recipe(epochs=EPOCHS, optimizer=Optimizer(kind=kind, lr=0.3), schedule=schedule)
    theirs = make_optimizer(plan.optimizer, torch.nn.Linear(2, 2))
    ours = make_optimizer(plan.optimizer, torch.nn.Linear(2, 2))
    scheduler = make(theirs)
    for step in range(TOTAL):
        set_rates(ours, learning_rate(plan, step, STEPS), momentum(plan, step, STEPS))
        for own, other in zip(ours.param_groups, theirs.param_groups, strict=True):
            assert own["lr"] == pytest.approx(other["lr"], rel=1e-5, abs=1e-9)
            key = "momentum" if kind == "sgd" else "betas"
            assert own[key] == pytest.approx(other[key], rel=1e-5)
        theirs.step()
        if step + 1 < TOTAL:
            scheduler.step()
