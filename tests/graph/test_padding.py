"""Padding that attributes ask for, against ONNX Runtime: auto_pad and ceil_mode of convolutions and pools."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import Builder, random_input

from lqcompile.errors import UnsupportedError
from lqcompile.graph.check import check
from lqcompile.graph.fuse import make_plan
from lqcompile.graph.load import prepare
from lqcompile.reference import execute, graph_outputs
from tests.graph.planning import run_plainly


def inferred(builder: Builder, op_type: str, *inputs: str, channels: int, **attributes: object) -> onnx.ModelProto:
    """A model of one node, whose output has the size that ONNX infers."""
    builder.node(op_type, [builder.value, *inputs], (channels, 1, 1), **attributes)
    model = builder.build()
    for axis in (2, 3):
        model.graph.output[0].type.tensor_type.shape.dim[axis].Clear()
    return model


def compare(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    loaded = prepare(model)
    check(loaded)
    plan = make_plan(loaded)
    feeds = random_input(rng, model, batch=2)
    (expected,) = run_plainly(model, feeds).values()
    (found,) = graph_outputs(plan, execute(plan, feeds)).values()
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def window(rng: np.random.Generator) -> dict[str, list[int]]:
    strides = rng.integers(1, 4, 2)
    return {"strides": strides.tolist(), "kernel_shape": (strides + rng.integers(0, 3, 2)).tolist()}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_auto_pad(mode: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(8, 13, 2).tolist())
    geometry = window(rng)
    compare(inferred(Builder(rng, (3, *size)), "MaxPool", channels=3, auto_pad=mode, **geometry), rng)
    compare(inferred(Builder(rng, (3, *size)), "AveragePool", channels=3, auto_pad=mode, **geometry), rng)
    builder = Builder(rng, (3, *size))
    weights = builder.constant("weight", rng.normal(size=(4, 3, *geometry["kernel_shape"])).astype(np.float32))
    dilations = [1, 1] if mode != "VALID" else rng.integers(1, 3, 2).tolist()
    compare(inferred(builder, "Conv", weights, channels=4, auto_pad=mode, dilations=dilations, **geometry), rng)


@pytest.mark.parametrize("opset", [13, 22])
@pytest.mark.parametrize("seed", range(6))
def test_ceil_mode(seed: int, opset: int) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(6, 12, 2).tolist())
    geometry = {**window(rng), "ceil_mode": 1}
    for counted in (0, 1):
        builder = Builder(rng, (3, *size), opset=opset)
        compare(inferred(builder, "AveragePool", channels=3, count_include_pad=counted, **geometry), rng)
    if opset < 22:  # Shape inference counts windows that start behind the image there.
        return
    pads = [int(rng.integers(0, (geometry["kernel_shape"][axis % 2] + 1) // 2)) for axis in range(4)]
    for op_type in ("MaxPool", "AveragePool"):
        compare(inferred(Builder(rng, (3, *size), opset=opset), op_type, channels=3, pads=pads, **geometry), rng)


def test_windows_behind_the_image_do_not_count() -> None:
    rng = np.random.default_rng(9)
    geometry = {"kernel_shape": [1, 1], "strides": [3, 3], "ceil_mode": 1}
    compare(inferred(Builder(rng, (3, 8, 9), opset=22), "MaxPool", channels=3, **geometry), rng)
    match = r"\(MaxPool\): found images of \[4, 4\] as output, expected \[3, 3\]; export with opset 22 or ceil"
    refused(Builder(rng, (3, 8, 9), opset=19), "MaxPool", match, **geometry)


def refused(builder: Builder, op_type: str, match: str, **attributes: object) -> None:
    with pytest.raises(UnsupportedError, match=match):
        check(prepare(inferred(builder, op_type, channels=3, **attributes)))


def test_what_is_refused() -> None:
    image = Builder(np.random.default_rng(0), (3, 6, 6))
    refused(
        image,
        "AveragePool",
        r"\(AveragePool\): found ceil_mode=1 with a partial last window, count_include_pad=1 and pads, expected at "
        r"most two of the three; export with count_include_pad=False$",
        kernel_shape=[3, 3],
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        # 6 + 2 pixels: the last of 4 windows is one short.
        ceil_mode=1,
        count_include_pad=1,
    )
    refused(
        Builder(np.random.default_rng(0), (3, 6, 6)),
        "MaxPool",
        r"\(MaxPool\): found auto_pad=MAGIC, expected NOTSET, VALID, SAME_UPPER or SAME_LOWER; export the model again$",
        kernel_shape=[3, 3],
        auto_pad="MAGIC",
    )
    image = Builder(np.random.default_rng(0), (3, 6, 6))
    weights = image.constant("weight", np.ones((3, 3, 3, 3), np.float32))
    match = r"\(Conv\): found auto_pad=SAME_LOWER with dilations, expected pads; export with explicit pads$"
    with pytest.raises(UnsupportedError, match=match):
        check(prepare(inferred(image, "Conv", weights, channels=3, auto_pad="SAME_LOWER", dilations=[2, 1])))
