"""Random graphs of supported operators, whole and damaged: a plan, or one clear line, and never anything else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import Builder
from onnx import numpy_helper

from lqcompile.errors import LQCompileError
from lqcompile.graph.check import check
from lqcompile.graph.fuse import make_plan
from lqcompile.graph.load import prepare
from lqcompile.graph.plan import Plan
from tests.graph.planning import check_promises

OPERATORS = {
    "quantize": lambda b, n: b.quantize(1 + n % 4, integer=bool(n % 2)),
    "quantize8": lambda b, n: b.quantize8(("uint8", "int8")[n % 2]),
    "conv": lambda b, n: b.conv(4 + n % 3, kernel=1 + n % 3, stride=1 + n % 2, bits=1 + n % 4),
    "conv8": lambda b, n: b.conv8(4 + n % 3, kernel=1 + n % 3),
    "depthwise": lambda b, n: b.conv8(b.shape[0], group=b.shape[0], kernel=1 + n % 3),
    "conv_float": lambda b, n: b.conv_float(4, kernel=1 + n % 3, dilation=1 + n % 2),
    "batch_norm": lambda b, _: b.batch_norm(),
    "relu": lambda b, _: b.relu(),
    "clip": lambda b, n: b.clip(-n / 3, n / 2),
    "max_pool": lambda b, n: b.max_pool(2 + n % 2, 1 + n % 2, n % 2),
    "average_pool": lambda b, n: b.average_pool(2, 1 + n % 2, 0, n % 2),
    "activation": lambda b, n: b.activation(("HardSwish", "HardSigmoid", "LeakyRelu", "PRelu")[n % 4]),
    "per_channel": lambda b, n: b.per_channel(("Add", "Sub", "Mul", "Div")[n % 4]),
    "add": lambda b, n: b.add(_earlier(b, n, b.shape)),
    "multiply": lambda b, n: b.multiply(_earlier(b, n, b.shape)),
    "concat": lambda b, n: b.concat(_earlier(b, n, None)),
    "squeeze": lambda b, _: b.global_average_pool(),
    "flatten": lambda b, _: b.flatten(),
}
"""What grows a model by an operator, with a number that varies it."""

ON_IMAGES = {"conv", "conv8", "depthwise", "conv_float", "max_pool", "average_pool", "squeeze"}


def _earlier(builder: Builder, number: int, shape: tuple[int, ...] | None) -> str:
    """An earlier computed value with the image size of the current end (`shape`: of this shape), or that end itself."""
    computed = {name for node in builder.nodes for name in node.input} | {builder.value}
    found = [
        name
        for name, other in builder.shapes.items()
        if name in computed and (other == shape or (shape is None and other[1:] == builder.shape[1:]))
    ]
    weights = {name for node in builder.nodes if node.op_type in ("Conv", "Gemm") for name in node.input[1:]}
    codes = {node.output[0] for node in builder.nodes if node.op_type == "QuantizeLinear"}
    usable = [name for name in found if name not in weights | codes]
    return usable[number % len(usable)] if usable else builder.value


def grow(seed: int, program: list[tuple[str, int]]) -> onnx.ModelProto:
    """The model of a program; operators on images are left out behind a flattening, or where the image has shrunk."""
    builder = Builder(np.random.default_rng(seed), (3, 9, 9)).relu()
    for name, number in program:
        if name in ON_IMAGES and (len(builder.shape) == 1 or min(builder.shape[1:]) < 3):
            continue
        OPERATORS[name](builder, number)
    return builder.build()


def damage(model: onnx.ModelProto, kind: str, number: int) -> None:
    """Break one thing, chosen by `number`, in place."""
    graph = model.graph
    node = graph.node[number % len(graph.node)]
    tensor = graph.initializer[number % len(graph.initializer)] if graph.initializer else None
    if kind == "dangling" and node.input:
        node.input[number % len(node.input)] = "nowhere"
    elif kind == "missing" and node.input:
        node.input[number % len(node.input)] = ""
    elif kind == "short" and node.input:
        del node.input[-1]
    elif kind == "swapped":
        node.input[:] = node.input[::-1]
    elif kind == "dropped":
        graph.node.remove(node)
    elif kind == "repeated":
        graph.node.append(node)
    elif kind == "operator":
        node.op_type = ("Conv", "Gemm", "MatMul", "Concat", "Reshape", "QuantizeLinear", "Mul", "PRelu")[number % 8]
    elif kind == "attribute" and node.attribute:
        attribute = node.attribute[number % len(node.attribute)]
        value = (-1, 0, 7, 1 << 40)[number % 4]
        attribute.i, attribute.f = value, float(value)
        attribute.ints[:] = [value] * (len(attribute.ints) if number % 3 else len(attribute.ints) + 1)
    elif kind == "size":
        dims = graph.input[0].type.tensor_type.shape.dim
        dims[number % len(dims)].dim_value = (0, 1, 1 << 20)[number % 3]
    elif kind == "number" and tensor is not None:
        array = numpy_helper.to_array(tensor).copy()
        if array.dtype == np.float32 and array.size:
            array.flat[number % array.size] = (np.nan, np.inf, -1e38, 0.0, 1e-45)[number % 5]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    elif kind == "type" and tensor is not None:
        dtype = ("float64", "float16", "int8", "uint8", "int32", "int64", "bool")[number % 7]
        with np.errstate(invalid="ignore"):
            array = numpy_helper.to_array(tensor).astype(dtype)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    elif kind == "shape" and tensor is not None:
        array = numpy_helper.to_array(tensor)
        array = (array.reshape(-1), array[None], array[..., None], array.reshape(-1)[:0])[number % 4]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


DAMAGES = (
    *("dangling", "missing", "short", "swapped", "dropped", "repeated"),
    *("operator", "attribute", "size", "number", "type", "shape"),
)

PROGRAMS = st.lists(st.tuples(st.sampled_from(sorted(OPERATORS)), st.integers(0, 11)), min_size=1, max_size=7)
QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def planned(model: onnx.ModelProto) -> Plan | None:
    """The plan; None where the model is refused in one line."""
    try:
        loaded = prepare(model)
        check(loaded)
        return make_plan(loaded)
    except LQCompileError as error:
        line = str(error)
        assert "\n" not in line and ("found" in line or "expected" in line), line
        return None


@QUICK
@given(seed=st.integers(0, 99), program=PROGRAMS)
def test_every_whole_graph_has_a_plan_or_a_reason(seed: int, program: list[tuple[str, int]]) -> None:
    plan = planned(grow(seed, program))
    if plan is not None:
        check_promises(plan)


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_is_one_line_or_harmless(kind: str) -> None:
    @settings(QUICK, max_examples=25)
    @given(seed=st.integers(0, 99), program=PROGRAMS, number=st.integers(0, 1000))
    def damaged(seed: int, program: list[tuple[str, int]], number: int) -> None:
        model = grow(seed, program)
        damage(model, kind, number)
        plan = planned(model)
        if plan is not None:
            check_promises(plan)

    damaged()
