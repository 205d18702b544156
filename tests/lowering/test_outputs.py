"""Stages and quantizers as epilogue steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from lqcompile.schedules.epilogue import AddStep, AffineStep, ClampStep, UniformStep
from lqcompile.schedules.formats import Format
from plans import random_affine, random_quantizer, random_uniform

from lqcompile.graph.plan import AddValue, Affine, Clamp, MaxPool, Output, Value
from lqcompile.lowering import outputs
from lqcompile.lowering.parameters import evaluate_stages
from lqcompile.lowering.program import Tensor


def test_steps_follow_the_stages() -> None:
    rng = np.random.default_rng(0)
    form = Format(kind="f32", channels=3, height=1, width=1)
    stages = (random_affine(rng, 3), AddValue(name="r"), Clamp(low=0.0, high=6.0), random_affine(rng, 3))
    steps = outputs.make_steps(stages, [form])
    assert steps == (AffineStep(), AddStep(format=form), ClampStep(low=0.0, high=6.0), AffineStep())
    arrays = outputs.step_parameters(stages, 16)
    assert [array.shape for array in arrays] == [(16,)] * 4
    np.testing.assert_array_equal(arrays[2][:3], stages[3].scale)
    np.testing.assert_array_equal(arrays[3], [*stages[3].shift, *[0] * 13])


def test_a_pooling_is_not_a_step() -> None:
    with pytest.raises(TypeError, match=r"^stage MaxPool is not an epilogue step$"):
        outputs.make_steps((MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0)),))


def test_levels_are_stored_as_codes_integers_or_reals() -> None:
    rng = np.random.default_rng(1)
    quantizer = replace(
        random_quantizer(rng, 2, integer=True),
        basis=np.float32([7, 2]),
        codes=np.uint8([0, 2, 1, 3]),
        levels=np.float32([0, 1, 3.5, 4.5]),
        scale=0.5,
    )
    assert outputs.make_quantizer(quantizer, "bits").stored == (0, 2, 1, 3)
    assert outputs.make_quantizer(quantizer, "u8").stored == (0, 2, 7, 9)
    assert outputs.make_quantizer(quantizer, "f32").stored == (0, 1, 3.5, 4.5)


@pytest.mark.parametrize(("dtype", "low", "high", "bias"), [("uint8", 0, 255, 0), ("int8", -128, 127, 128)])
def test_8_bit_codes_are_stored_unsigned(dtype: str, low: int, high: int, bias: int) -> None:
    quantizer = random_uniform(np.random.default_rng(2), dtype)
    scale, point = float(quantizer.scale), quantizer.zero_point
    step = UniformStep(scale=scale, zero_point=point, low=low, high=high, bias=bias)
    assert outputs.make_quantizer(quantizer, "u8") == step
    assert outputs.make_quantizer(quantizer, "f32") == replace(step, decode=True)
    assert outputs.zero_code(quantizer) == point + bias
    value = Value(name="v", shape=(5, 2, 2), quantizer=quantizer)
    assert outputs.make_format(value, "u8", (1, 1, 1, 1)).pad == point + bias


def test_an_activation_offset_is_a_plane_of_ones() -> None:
    rng = np.random.default_rng(3)
    for offset in (False, True):
        quantizer = random_quantizer(rng, 3, offset=offset)
        form = outputs.make_format(Value(name="v", shape=(40,), quantizer=quantizer), "bits", (0, 0, 0, 0))
        assert (form.planes, form.ones_plane, form.height, form.width) == (3 + offset, offset, 1, 1)


@pytest.mark.parametrize("seed", range(6))
def test_thresholds_on_the_stream_give_the_levels_of_the_chain(seed: int) -> None:
    """Against the chain itself, on random streams and on the float32 neighbours of every threshold."""
    rng = np.random.default_rng(seed)
    channels, size = 7, 16
    scale = rng.normal(size=channels) * (rng.random(channels) < 0.9)
    stages = (
        replace(random_affine(rng, channels), scale=scale),
        Clamp(low=-0.5, high=1.5),
        random_affine(rng, channels),
    )
    quantizer = random_quantizer(rng, 3)
    value = Value(name="v", shape=(channels, 1, 1), quantizer=quantizer)
    tensor = Tensor(key="t", dtype="uint8", size=size, value="v", form=outputs.make_format(value, "u8", (0, 0, 0, 0)))
    store, arrays = outputs.make_stream_store(Output(value=value, stages=stages), tensor, size)
    assert (store.steps, store.per_channel, store.complement) == ((), True, len(arrays) == 2)
    rows = arrays[0].reshape(7, size)
    turn = arrays[1] if store.complement else np.ones(size, np.float32)
    assert rows.dtype == turn.dtype == np.float32 and np.isinf(rows[:, channels:]).all()
    near = (rows * turn)[:, :channels]
    streams = np.concatenate([rng.normal(size=(500, channels)).astype(np.float32), near])
    for direction in (np.inf, -np.inf):
        streams = np.concatenate([streams, np.nextafter(near, np.float32(direction))])
    streams = streams[np.isfinite(streams).all(axis=1)]
    levels = ((streams * turn[:channels])[:, None] > rows[None, :, :channels]).sum(axis=1)
    chain = evaluate_stages(streams.T.astype(np.float64), stages)
    np.testing.assert_array_equal(levels.T, (chain[:, :, None] > quantizer.thresholds).sum(axis=2))


def test_factors_of_one_and_shifts_of_zero_are_left_out() -> None:
    stages = (Affine(scale=np.ones(3), shift=np.arange(3.0)), Affine(scale=np.arange(3.0), shift=np.zeros(3)))
    assert outputs.make_steps(stages) == (AffineStep(scaled=False), AffineStep(shifted=False))
    assert [array[:3].tolist() for array in outputs.step_parameters(stages, 8)] == [[0.0, 1.0, 2.0]] * 2
