import numpy as np
import onnx
import onnx.defs
import pytest
from models import Builder, conv_model, random_input, run_onnxruntime

from lqcompile.graph import schema
from lqcompile.graph.functions import functions


def test_register_twice():
    schema.register()
    schema.register()
    for name in schema.OPERATORS:
        assert onnx.defs.get_schema(name, schema.DOMAIN).since_version == schema.VERSION


@pytest.mark.parametrize("body", functions(18), ids=lambda body: body.name + body.overload)
def test_schema_has_the_signature_of_the_function(body):
    found = schema.schema(body.name)
    assert [value.name for value in found.inputs] == list(body.input)
    assert set(found.attributes) == set(body.attribute)
    assert all(attribute.required for attribute in found.attributes.values())


@pytest.mark.parametrize("seed", range(4))
def test_inferred_shapes_are_those_of_onnxruntime(seed):
    rng = np.random.default_rng(seed)
    schema.register()
    stride, dilation, kernel = ((int(v[0]), int(v[1])) for v in rng.integers(1, 4, (3, 2)))
    pads = tuple(int(v) for v in rng.integers(0, 3, 4))
    model = conv_model(rng, kernel=kernel, stride=stride, dilation=dilation, pads=pads, size=(11, 13))
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    for name in ("a", "b"):
        model.graph.output[0].type.tensor_type.shape.dim.add().dim_param = name
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    dims = inferred.graph.output[0].type.tensor_type.shape.dim
    (y,) = run_onnxruntime(model, random_input(rng, model))
    assert dims[0].dim_param == "N"
    assert tuple(dim.dim_value for dim in dims[1:]) == y.shape[1:]


def test_linear_shape():
    schema.register()
    model = Builder(np.random.default_rng(0), (5,)).linear(7).relu().build()
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    (info,) = inferred.graph.value_info
    assert [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim] == ["N", 7]


@pytest.mark.parametrize(("label", "value"), [("strides", [0, 1]), ("pads", [0, 0]), ("weight_shape", [1])])
def test_wild_attributes_leave_the_shape_open(label, value):
    schema.register()
    model = Builder(np.random.default_rng(0), (4, 5, 5)).conv(6).relu().build()
    (attribute,) = [a for a in model.graph.node[0].attribute if a.name == label]
    attribute.ints[:] = value
    inferred = onnx.shape_inference.infer_shapes(model)
    conv_output = model.graph.node[0].output[0]
    shapes = [info.type.tensor_type.HasField("shape") for info in inferred.graph.value_info if info.name == conv_output]
    assert shapes == [False]
