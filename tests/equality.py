"""Loaded networks against the reference, on machines that have no compiler too."""

from __future__ import annotations

from typing import Any

import numpy as np

from lqcompile.graph.plan import Contraction, Plan, is_exact
from lqcompile.reference import execute, execute_region, graph_outputs
from lqcompile.reference.values import dequantize, held_quantizer
from lqcompile.runtime import CompiledModel


def check_equal(plan: Plan, model: CompiledModel, x: np.ndarray, *, tolerance: float = 0.0) -> None:
    """Holds a loaded network against the reference: whole, region by region, and every integer.

    Args:
        plan: of the network.
        model: to check.
        x: samples.
        tolerance: absolute, of what is computed in float32; what follows exact regions is equal.
    """
    feeds = {"x": x}
    values = execute(plan, feeds)
    found, expected = model.run(feeds), graph_outputs(plan, values)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance, err_msg=f"output {name}")
    used = {name for region in plan.regions for name in (*region.inputs, *region.residuals)}
    used |= {name for _, name, _ in plan.outputs}
    for region in plan.regions:
        names = (*region.inputs, *region.residuals)
        outputs = model.run_region(region.name, {name: values[name] for name in names})
        integers, _ = execute_region(plan, region, values)
        assert outputs.keys() == {output.value.name for output in region.outputs} & used
        for output in region.outputs:
            if output.value.name not in used:
                continue
            value, got = output.value, outputs[output.value.name]
            quantizer = held_quantizer(value)
            wanted = values[value.name]
            assert got.dtype == wanted.dtype
            if quantizer is not None:
                # Levels may tie: equal real values are what counts, and what travels to the next layer.
                got, wanted = dequantize(got, quantizer), dequantize(wanted, quantizer)
            slack = tolerance if inexact(plan, region) else 0.0
            np.testing.assert_allclose(got, wanted, rtol=0, atol=slack, err_msg=f"{region.name} {value.name}")
        if integers is not None:
            sums = model.run_sums(region.name, {name: values[name] for name in names})
            np.testing.assert_array_equal(sums, integers, err_msg=region.name)


def inexact(plan: Plan, region: Any) -> bool:
    """Whether a region sums in float32."""
    if not isinstance(region.operation, Contraction):
        return region.op_type == "Softmax"
    return not is_exact(region.operation, held_quantizer(plan.values[region.inputs[0]]))
