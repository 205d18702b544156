"""Plans of test models: making them, drawing them as text, and holding them against ONNX Runtime region by region."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime

from lqcompile.graph.check import check
from lqcompile.graph.fuse import DECODED, make_plan
from lqcompile.graph.load import prepare
from lqcompile.graph.plan import (
    Affine,
    Clamp,
    Contraction,
    Joining,
    Map,
    MaxPool,
    Output,
    Plan,
    Region,
    Value,
    is_monotone,
)
from lqcompile.graph.specs import Quantizer
from lqcompile.reference.execute import execute_region, graph_outputs
from lqcompile.reference.values import dequantize
from tests.models import random_input


def plan_of(model: onnx.ModelProto) -> Plan:
    """The plan of a model, checked for what every plan promises."""
    checked = prepare(model)
    check(checked)
    plan = make_plan(checked)
    check_promises(plan)
    return plan


def sketch(plan: Plan) -> list[str]:
    """One line per region: ``LQConv Affine Clamp -> codes, Affine codes``."""
    return [_line(region) for region in plan.regions]


def _line(region: Region) -> str:
    head = region.op_type if isinstance(region.operation, Contraction) else type(region.operation).__name__
    stages = [_stage(stage) for stage in region.stages]
    return f"{' '.join([head, *stages])} -> {', '.join(_output(output) for output in region.outputs)}"


def _stage(stage: object) -> str:
    return type(stage).__name__


def _output(output: Output) -> str:
    kind = "codes" if output.value.holds_codes else "levels" if output.decoded else "float"
    return " ".join([*(_stage(stage) for stage in output.stages), kind])


def check_promises(plan: Plan) -> None:
    """What the docstrings of plan.py say about every plan."""
    known = {value.name for value in plan.inputs}
    assert len({region.name for region in plan.regions}) == len(plan.regions)
    for region in plan.regions:
        assert known.issuperset(region.inputs)
        assert known.issuperset(region.residuals)
        for name in region.residuals:
            assert not plan.values[name].holds_codes
        added = [isinstance(stage, Joining) for stage in region.stages]
        assert sum(added) <= 1
        if any(added):
            assert all(isinstance(stage, Clamp) for stage in region.stages[added.index(True) + 1 :])
        pools = [isinstance(stage, MaxPool) for stage in region.stages]
        assert not any(pools) or is_monotone([stage for stage in region.stages if not isinstance(stage, MaxPool)])
        assert region.outputs
        for output in region.outputs:
            assert output.value.name not in known
            assert plan.values[output.value.name] is output.value
            assert all(isinstance(stage, Map) for stage in output.stages)
        for stage in (*region.stages, *(stage for output in region.outputs for stage in output.stages)):
            if isinstance(stage, Affine):
                assert stage.scale.dtype == stage.shift.dtype == np.float64
                assert stage.scale.shape == stage.shift.shape
        known |= {output.value.name for output in region.outputs}
    assert known == plan.values.keys()
    assert {source for _, source, _ in plan.outputs} <= known


def check_against_onnxruntime(model: onnx.ModelProto, plan: Plan, rng: np.random.Generator) -> None:
    """Feed every region what ONNX Runtime computed, and expect what it computed next."""
    feeds = random_input(rng, model, batch=3)
    everything = onnx.ModelProto()
    everything.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    names = [name for node in model.graph.node for name in node.output if name and name not in outputs]
    everything.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found = run_plainly(everything, feeds)
    values = dict(feeds)
    for region in plan.regions:
        _, ours = execute_region(plan, region, values)
        for output in region.outputs:
            value, array = output.value, ours[output.value.name]
            theirs = _expected(value, found)
            if theirs is not None:
                _compare(value, array, theirs)
            values[value.name] = array
            if theirs is not None:
                values[value.name] = _encode(theirs, value) if value.holds_codes else theirs
    for name, array in graph_outputs(plan, values).items():
        assert array.shape == found[name].shape, name


def run_plainly(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of ONNX Runtime without its graph optimizations, by name.

    With them, ONNX Runtime 1.31 rounds the float weights between DequantizeLinear and QuantizeLinear to 8 bits.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def _expected(value: Value, found: dict[str, np.ndarray]) -> np.ndarray | None:
    """The float32 that ONNX Runtime has for a value; None where a rewrite made it."""
    array = found.get(value.name.removesuffix(f".{DECODED}"))
    if array is None:
        return None
    if value.quantizer is not None and array.dtype != np.float32:
        array = dequantize(array, value.quantizer)
    return array.reshape(len(array), *value.shape)


def _encode(real: np.ndarray, value: Value) -> np.ndarray:
    quantizer = value.quantizer
    assert quantizer is not None
    if isinstance(quantizer, Quantizer):
        return np.abs(real[..., None] - quantizer.levels).argmin(axis=-1).astype(np.uint8)
    return (np.round(real / quantizer.scale) + quantizer.zero_point).astype(quantizer.dtype)


def _compare(value: Value, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Floats are close; a code may differ where the value in front of it is within rounding of a threshold."""
    if value.quantizer is None:
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4, err_msg=value.name)
        return
    real = dequantize(ours, value.quantizer) if value.holds_codes else ours
    assert real.shape == theirs.shape
    different = np.abs(real - theirs) > 1e-5 * np.abs(theirs).max()
    assert different.sum() <= 2 + 0.002 * different.size, value.name
