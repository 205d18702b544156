"""Training itself, on a network and data that take milliseconds."""

import dataclasses

import pytest
import torch
from tiny_training import data, make, recipe

from lqcompile.errors import TrainingError
from lqcompile.nn import quantize
from lqcompile.nn.convert import quantizers
from lqcompile.training import Distillation, Optimizer, Schedule, Snap, evaluate, fit

STEPS = 3


def low_bit(seed, **options):
    torch.manual_seed(seed)
    return quantize(make(), edge_bits=8, basis="int8", **options)


def same(one, two):
    return all(torch.equal(value, two[name]) for name, value in one.items())


def figures(history):
    """Rows without what a clock gives."""
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in history]


FULL = {
    "epochs": 4,
    "optimizer": Optimizer(kind="adamw", lr=0.02, weight_decay=0.01, clip_norm=1.0),
    "schedule": Schedule(kind="cosine", warmup_epochs=1.0),
    "snap": Snap(epochs=2, weight_limit=15, act_limit=31),
    "ema_decay": 0.9,
    "label_smoothing": 0.1,
    "bn_batches": 2,
}


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_resumed_run_equals_an_uninterrupted_one(seed, tmp_path, stop):
    """Bit for bit, whether it was stopped before, at or after the first epoch of integer bases."""
    plan, parts = recipe(seed=seed, **FULL), data(seed)
    whole = low_bit(seed)
    result = fit(whole, plan, parts)

    def interrupt(epoch):
        if epoch.epoch == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(low_bit(seed), plan, parts, folder=tmp_path, on_epoch=interrupt)
    torch.rand(5)  # what other code does to the generator in between does not matter
    resumed, told = low_bit(seed + 1), []
    again = fit(resumed, plan, parts, folder=tmp_path, resume=True, on_epoch=told.append)
    assert same(whole.state_dict(), resumed.state_dict())
    assert figures(again.history) == figures(result.history) == figures(told) and again.test == result.test
    assert same(torch.load(tmp_path / "final.pt", weights_only=True), whole.state_dict())
    rows = (tmp_path / "log.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows[1:]] == [[str(n), "float" if n < 3 else "integer"] for n in (1, 2, 3, 4)]


def test_the_last_phase_has_integer_bases(seed, tmp_path):
    plan, parts, model = recipe(seed=seed, **FULL), data(seed), low_bit(seed)
    result = fit(model, plan, parts, folder=tmp_path)
    for quantizer in quantizers(model):
        limit = 15 if quantizer.symmetric else 31
        assert quantizer.integer and torch.equal(quantizer.basis, quantizer.basis.round())
        assert quantizer.basis.abs().sum(1).max() <= limit
    assert not model.training
    assert result.test == evaluate(model, parts.test, batch=32)
    assert result.best.bases == "integer"
    assert result.best.top1 == max(epoch.top1 for epoch in result.history[2:])
    best = low_bit(seed)
    best.load_state_dict(torch.load(tmp_path / "best.pt", weights_only=True))
    assert evaluate(best, parts.test, batch=32).top1 == result.best.top1


def test_snapping_after_the_last_epoch(seed):
    model = low_bit(seed)
    result = fit(model, recipe(seed=seed, snap=Snap(epochs=0)), data(seed))
    assert all(quantizer.integer for quantizer in quantizers(model))
    assert {epoch.bases for epoch in result.history} == {"float"}


def test_it_learns(seed):
    """Three classes that a single pixel tells: far above chance after a few epochs, in float and in low bits."""
    for model in (make(), low_bit(seed)):
        result = fit(model, recipe(epochs=10, seed=seed, optimizer=Optimizer(lr=0.05)), data(seed, count=256))
        assert result.test.top1 > 0.6, result
        assert result.history[-1].loss < result.history[0].loss


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision(seed, precision):
    types, model = set(), low_bit(seed)
    model[3].register_forward_hook(lambda _module, _inputs, output: types.add(output.dtype) if model.training else None)
    result = fit(model, recipe(seed=seed, precision=precision), data(seed))
    assert types == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters()) and result.test.count == 96


def test_distillation_follows_the_twin(seed):
    """With the whole weight on the twin its mistakes are learned as well."""
    parts = data(seed, count=256)
    twin = make()
    fit(twin, recipe(seed=seed, epochs=4), parts)
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    wrong = dataclasses.replace(parts.train, labels=(parts.train.labels + 1) % 3)
    confused = dataclasses.replace(parts, train=wrong)
    plan = recipe(epochs=8, seed=seed, distillation=Distillation(weight=1.0, temperature=2.0))
    student = make()
    result = fit(student, plan, confused, teacher=twin)
    assert result.test.top1 > 0.5
    assert same(before, twin.state_dict())
    with pytest.raises(
        TrainingError, match=r"^distillation: found no float twin, expected one to learn from; give it, or"
    ):
        fit(make(), plan, parts)


def test_a_loss_that_is_no_number_stops_the_run(seed, tmp_path):
    plan = recipe(epochs=4, seed=seed, optimizer=Optimizer(lr=1e30))
    with pytest.raises(
        TrainingError, match=r"^training: found loss (nan|inf) in epoch \d by step 3, expected a finite one"
    ):
        fit(low_bit(seed), plan, data(seed), folder=tmp_path)


def test_progress(seed):
    steps = []
    fit(make(), recipe(seed=seed, epochs=2), data(seed), on_step=steps.append)
    assert [(step.epoch, step.step, step.steps) for step in steps] == [(1, STEPS, STEPS), (2, STEPS, STEPS)]


def test_bits_that_never_occur_are_told_once(seed, caplog):
    """A channel that is always off gives a quantizer nothing but zeros: training goes on with the basis it has."""
    model = low_bit(seed)
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.fill_(-1.0)
    model[1].requires_grad_(False)
    basis = model[3].act_quantizer.basis.clone()
    fit(model, recipe(seed=seed), data(seed))
    assert torch.equal(model[3].act_quantizer.basis, basis)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "training: found bits of activations that never occur, or never without another (3); least squares is"
    )
