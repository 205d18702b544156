"""What the plan cannot express is refused in one line that names the node; rules and checks know the same operators."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper

from lqcompile.errors import UnsupportedError
from lqcompile.graph.check import check
from lqcompile.graph.flow import Flow, Step
from lqcompile.graph.fuse import make_plan
from lqcompile.graph.load import prepare
from lqcompile.graph.plan import Clamp, MaxPool, Value
from lqcompile.graph.rewrite import simplify
from lqcompile.graph.schema import OPERATORS
from lqcompile.graph.specs import UniformQuantizer
from lqcompile.graph.supported import SUPPORTED
from lqcompile.graph.translate import RULES
from tests.models import Builder
from tests.plans import random_quantizer


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.default_rng().integers(2**32))
    print(f"seed={seed}")  # noqa: T201
    return np.random.default_rng(seed)


def refusal(model: onnx.ModelProto) -> str:
    checked = prepare(model)
    check(checked)
    with pytest.raises(UnsupportedError) as caught:
        make_plan(checked)
    message = str(caught.value)
    assert "\n" not in message
    return message


def expect(model: onnx.ModelProto, pattern: str) -> None:
    assert re.fullmatch(pattern, refusal(model))


def test_every_checked_operator_has_a_rule():
    assert RULES.keys() == (SUPPORTED.keys() | OPERATORS.keys()) - {"Constant"}


def test_constant_branch(rng):
    builder = Builder(rng, (3, 4, 4))
    values = builder.constant("c", rng.normal(size=(1, 3, 4, 4)).astype(np.float32))
    builder.node("Relu", [values], (3, 4, 4)).concat("x")
    expect(
        builder.build(),
        r"node 'concat_1' \(Concat\): found the constant input 'v_relu_0', expected a computed value; "
        "simplify the model before the export",
    )


def test_constant_per_element_of_a_flattened_image(rng):
    builder = Builder(rng, (3, 2, 2)).flatten().per_channel("Mul")
    expect(
        builder.build(),
        r"node 'mul_1' \(Mul\): found one number per element of a flattened image \[3, 2, 2\], expected one per "
        "channel; move it in front of the flattening",
    )


def test_batch_normalization_per_element_of_a_flattened_image(rng):
    assert "one number per element" in refusal(Builder(rng, (3, 2, 2)).flatten().batch_norm().build())


def test_negative_variance(rng):
    builder = Builder(rng, (2, 3, 3))
    arrays = [np.ones(2), np.zeros(2), np.zeros(2), np.array([1.0, -1.0])]
    names = [builder.constant("bn", array.astype(np.float32)) for array in arrays]
    expect(
        builder.node("BatchNormalization", ["x", *names], (2, 3, 3), epsilon=0.0).build(),
        r"node 'batchnormalization_0' \(BatchNormalization\): found a variance of -1, expected positive ones; look for "
        "a diverged training run",
    )


def test_addition_of_different_images(rng):
    builder = Builder(rng, (4, 2, 2)).flatten()
    flat = builder.value
    expect(
        builder.at("x").flatten().gemm_float(16).add(flat).build(),
        r"node 'add_3' \(Add\): found flattened images of \[16\] and \[4, 2, 2\], expected images of one shape; "
        "add in front of the flattening",
    )


def test_concatenation_of_different_images(rng):
    builder = Builder(rng, (4, 2, 2)).flatten()
    flat = builder.value
    expect(
        builder.gemm_float(5).concat(flat).build(),
        r"node 'concat_2' \(Concat\): found flattened images of \[5\] and \[4, 2, 2\], expected images of one size; "
        "concatenate in front of the flattening",
    )


@pytest.mark.parametrize("pool", ["max_pool", "average_pool", "global_average_pool"])
def test_pool_of_a_reshaped_vector(rng, pool):
    builder = Builder(rng, (4,))
    builder.node("Unsqueeze", ["x", builder.constant("axes", np.array([2, 3]))], (4, 1, 1))
    getattr(builder, pool)(*([] if pool.startswith("global") else [1, 1]))
    assert "found an image that is stored as [4], expected [4, 1, 1]; pool before reshaping" in refusal(builder.build())


def test_softmax_over_an_image(rng):
    expect(
        Builder(rng, (4, 2, 2)).softmax().build(),
        r"node 'softmax_0' \(Softmax\): found an input stored as \[4, 2, 2\], expected one number per channel; "
        "leave the softmax to the caller",
    )


def test_input_that_is_neither_vector_nor_image(rng):
    expect(
        Builder(rng, (4, 2)).relu().build(),
        r"input 'x': found rank 3, expected \[N,C\] or \[N,C,H,W\]; reshape it before the model",
    )


def test_constant_output(rng):
    builder = Builder(rng, (2,)).relu()
    relu = builder.value
    constant = builder.constant("c", np.ones((1, 2), np.float32))
    model = builder.node("Identity", [constant], (2,)).build([relu])
    del model.graph.output[0].type.tensor_type.shape.dim[0]
    dims = model.graph.output[0].type.tensor_type.shape.dim
    dims.insert(0, helper.make_tensor_value_info("", 1, [1]).type.tensor_type.shape.dim[0])
    expect(model, r"output 'v_identity_1': found a constant, expected a computed value; remove the output")


def quantizing_steps(kinds):
    return [
        Step(name=f"q{n}", op_type="", kind=kind, inputs=("x",), output=f"q{n}", shape=(1, 4, 4))
        for n, kind in enumerate(kinds)
    ]


def kept(kinds):
    steps = quantizing_steps(kinds)
    outputs = tuple((step.output, step.output, step.shape) for step in steps)
    flow = Flow(inputs=(Value(name="x", shape=(1, 4, 4)),), outputs=outputs, steps=tuple(steps))
    return [step.output for step in simplify(flow).steps]


@pytest.mark.parametrize("field", ["thresholds", "levels", "basis", "codes", "offset", "scale", "integer_basis"])
def test_quantizers_that_differ_anywhere_stay_apart(rng, field):
    first = random_quantizer(rng, 2)
    value = getattr(first, field)
    changed = {"codes": first.codes[::-1], "integer_basis": True}.get(field, value * 2 + 1)
    assert kept([first, replace(first, name="other"), replace(first, **{field: changed})]) == ["q0", "q2"]


@pytest.mark.parametrize("field", ["scale", "zero_point", "dtype"])
def test_uniform_quantizers_that_differ_anywhere_stay_apart(rng, field):
    first = UniformQuantizer(name="q", scale=np.float32(rng.uniform(1, 2)), zero_point=3, dtype="uint8")
    changed = {"scale": np.float32(3), "zero_point": 4, "dtype": "int8"}[field]
    assert kept([first, replace(first, name="other"), replace(first, **{field: changed})]) == ["q0", "q2"]


def test_equal_clamps_and_pools_are_computed_once():
    pool = MaxPool(kernel=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0))

    def step(kind, source, output):
        return Step(name=output, op_type="", kind=kind, inputs=(source,), output=output, shape=(1, 2, 2))

    steps = []
    for branch in ("a", "b"):
        steps += [step(Clamp(low=0, high=1), "x", f"{branch}1"), step(pool, f"{branch}1", f"{branch}2")]
    flow = simplify(
        Flow(
            inputs=(Value(name="x", shape=(1, 4, 4)),),
            outputs=(("y", "a2", (1, 2, 2)), ("z", "b2", (1, 2, 2))),
            steps=tuple(steps),
        )
    )
    assert [step.output for step in flow.steps] == ["a1", "a2"]
    assert [value for _, value, _ in flow.outputs] == ["a2", "a2"]
