import numpy as np
import onnx
import pytest
from models import Builder, chain_model, conv_model, linear_model, random_input, run_onnxruntime
from onnx import helper, numpy_helper

from lqcompile.errors import ModelError
from lqcompile.graph.functions import attach, functions
from lqcompile.graph.load import MAX_OPSET, MIN_OPSET


def arrays(model: onnx.ModelProto, op_type: str) -> dict[str, np.ndarray]:
    """Constant inputs of the first node of a type, by the label at the start of their name."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    node = next(node for node in model.graph.node if node.op_type == op_type)
    return {name.rsplit("_", 1)[0]: stored[name] for name in node.input[1:]}


def attributes(model: onnx.ModelProto, op_type: str) -> dict[str, object]:
    node = next(node for node in model.graph.node if node.op_type == op_type)
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def quantize_float64(x: np.ndarray, a: dict[str, np.ndarray]) -> np.ndarray:
    return a["levels"][(x[..., None] > a["thresholds"]).sum(axis=-1)]


def weights_float64(a: dict[str, np.ndarray], shape: list[int]) -> np.ndarray:
    bits = np.unpackbits(a["planes"], axis=-1, bitorder="little")[..., : int(np.prod(shape[1:]))]
    total = (a["basis"].astype(np.float64)[:, :, None] * (2.0 * bits - 1)).sum(axis=1)
    scale, offset = (a[label].astype(np.float64)[:, None] for label in ("scale", "offset"))
    return (offset + scale * total).reshape(shape)


def conv_float64(x, w, bias, strides, pads, dilations, group):
    top, left, bottom, right = pads
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (top, bottom), (left, right)))
    span = [d * (k - 1) + 1 for d, k in zip(dilations, w.shape[2:], strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    inputs, filters = np.split(windows, group, axis=1), np.split(w, group)
    parts = [np.einsum("nchwkl,ockl->nohw", i, f) for i, f in zip(inputs, filters, strict=True)]
    return np.concatenate(parts, axis=1) + bias.astype(np.float64)[None, :, None, None]


@pytest.mark.parametrize("seed", range(16))
def test_conv_equals_float64(seed):
    rng = np.random.default_rng(seed)
    group = int(rng.choice([1, 1, 2, 3]))
    channels = (group * int(rng.integers(1, 8)), group * int(rng.integers(1, 8)))
    kernel, stride, dilation = (tuple(int(v) for v in rng.integers(1, 4, 2)) for _ in range(3))
    pads = tuple(int(v) for v in rng.integers(0, 3, 4))
    integer = bool(rng.integers(2))
    model = conv_model(
        rng,
        weight_bits=1 + seed % 4,
        act_bits=1 + seed // 4,
        channels=channels,
        size=(10, 11),
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        pads=pads,
        group=group,
        integer=integer,
        weight_offset=not integer,
        act_offset=0.0 if integer else float(rng.normal()),
    )
    feeds = random_input(rng, model, batch=3)
    (y,) = run_onnxruntime(model, feeds)
    a, conv = arrays(model, "LQConv"), attributes(model, "LQConv")
    x = quantize_float64(feeds["x"], arrays(model, "LQQuantize"))
    w = weights_float64(a, conv["weight_shape"])
    expected = conv_float64(x, w, a["bias"], conv["strides"], conv["pads"], conv["dilations"], group)
    # Sums of at most 63 products near unit variance in float32.
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("integer", [False, True])
def test_linear_equals_float64(bits, integer):
    rng = np.random.default_rng(bits)
    model = linear_model(
        rng, weight_bits=bits, features=(29, 13), act_bits=None, integer=integer, weight_offset=not integer
    )
    feeds = random_input(rng, model, batch=4)
    (y,) = run_onnxruntime(model, feeds)
    a = arrays(model, "LQLinear")
    expected = feeds["x"].astype(np.float64) @ weights_float64(a, [13, 29]).T + a["bias"]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"integer": True}, {"offset": -0.7, "signed": True}])
def test_quantize_is_exact(bits, options):
    rng = np.random.default_rng(bits)
    model = Builder(rng, (3, 5, 7)).quantize(bits, **options).build()
    feeds = random_input(rng, model, batch=8)
    a = arrays(model, "LQQuantize")
    # Values equal to a threshold, their neighbours, and what has no place in the order.
    edges = np.concatenate(
        [a["thresholds"], np.nextafter(a["thresholds"], np.float32(np.inf)), [np.nan, np.inf, -np.inf]]
    )
    feeds["x"].reshape(-1)[: edges.size] = edges
    (y,) = run_onnxruntime(model, feeds)
    np.testing.assert_array_equal(y, quantize_float64(feeds["x"], a))
    assert len(np.unique(y)) == 1 << bits


@pytest.mark.parametrize("opset", range(MIN_OPSET, MAX_OPSET + 1))
def test_every_supported_opset_runs(opset):
    rng = np.random.default_rng(opset)
    model = conv_model(rng, opset=opset, weight_bits=3, out_bits=1)
    onnx.checker.check_model(model, full_check=True)
    feeds = random_input(rng, model)
    (y,) = run_onnxruntime(model, feeds)
    older = onnx.ModelProto.FromString(model.SerializeToString())
    older.opset_import[0].version = 18
    attach(older)
    np.testing.assert_array_equal(y, run_onnxruntime(older, feeds)[0])


def test_functions_cover_every_number_of_bits():
    names = [(body.name, body.overload) for body in functions(18)]
    assert names == [("LQConv", ""), ("LQLinear", ""), *(("LQQuantize", f"bits{k}") for k in (1, 2, 3, 4))]
    assert {body.opset_import[0].version for body in functions(21)} == {21}


def test_attach_is_idempotent_and_keeps_other_functions():
    model = chain_model(np.random.default_rng(0), channels=(4, 4, 4))
    assert [(body.name, body.overload) for body in model.functions] == [("LQConv", ""), ("LQQuantize", "bits2")]
    other = onnx.parser.parse_function('<domain: "other", opset_import: ["": 18]> F (x) => (y) { y = Relu(x) }')
    model.functions.insert(0, other)
    again = onnx.ModelProto.FromString(model.SerializeToString())
    attach(again)
    assert again == model


def test_attach_needs_a_standard_opset():
    model = linear_model(np.random.default_rng(0))
    del model.opset_import[:]
    with pytest.raises(ModelError, match=r"^model: found no opset import of the standard domain, expected one; export"):
        attach(model)


def test_attach_needs_constant_thresholds():
    model = linear_model(np.random.default_rng(0))
    quantizer = next(node for node in model.graph.node if node.op_type == "LQQuantize")
    quantizer.input[1] = "computed"
    with pytest.raises(
        ModelError, match=r"^node 'lqquantize_0' \(lqcompile::LQQuantize\): thresholds have no initializer,"
    ):
        attach(model)


def test_attach_needs_a_known_number_of_thresholds():
    model = linear_model(np.random.default_rng(0))
    quantizer = next(node for node in model.graph.node if node.op_type == "LQQuantize")
    quantizer.input[1] = quantizer.input[2]
    with pytest.raises(
        ModelError, match=r"thresholds have shape \[4\], expected a constant of shape \[2\^K-1\] with K in"
    ):
        attach(model)
