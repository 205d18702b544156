"""What the manifest tells of the work in a network, against its definition and the layout of the arena."""

import numpy as np
import pytest
from compiling import X86, compile_plan
from plans import small_network

from lqcompile import layout
from lqcompile.build import _variant
from lqcompile.graph.plan import Contraction
from lqcompile.target import find


@pytest.fixture(scope="module")
def network():
    """A plan of every kind of region, and its entry in a manifest."""
    plan = small_network(np.random.default_rng(3), integer=True)
    target = find(X86[0])
    made = compile_plan(plan, target)
    return plan, _variant(plan, made.program, made.driver, target, "", "")


def test_work_of_every_layer(network):
    plan, variant = network
    contractions = {
        region.name: region.operation for region in plan.regions if isinstance(region.operation, Contraction)
    }
    assert [layer["name"] for layer in variant["layers"]] == list(contractions)
    for layer in variant["layers"]:
        operation = contractions[layer["name"]]
        outputs, depth = operation.weights.shape[:2]
        taps = int(np.prod(operation.geometry.kernel))
        pixels = int(np.prod(operation.out_shape[1:]))
        assert layer["weights"] == outputs * depth * taps
        assert layer["macs"] == layer["weights"] * pixels
        assert layer["group"] == operation.in_shape[0] // depth
        assert (layer["in_shape"], layer["out_shape"]) == (list(operation.in_shape), list(operation.out_shape))
        assert layer["loop"] and layer["packed_bytes"] > 0


def test_estimates_are_those_of_the_reason(network):
    _, variant = network
    compared = [layer for layer in variant["layers"] if layer["reason"].startswith("cost table")]
    assert compared
    for layer in compared:
        best, other, *_ = layer["estimates"]
        assert (best["kernel"], best["times"]) == (layer["kernel"], 1.0)
        assert f"{other['times']:.1f} x {other['kernel']}" in layer["reason"]


def test_bytes_of_every_region(network):
    plan, variant = network
    entries = {region["name"]: region for region in variant["regions"]}
    inputs = {value.name: 4 * int(np.prod(value.shape)) for value in plan.inputs}
    for region in plan.regions:
        entry = entries[region.name]
        assert entry["op"] == region.op_type
        assert entry["fused"] == [type(stage).__name__ for stage in region.stages]
        read = sum(layout.size_bytes(variant["tensors"][place]) for place in entry["places"])
        assert entry["bytes"]["read"] == read + sum(inputs.get(name, 0) for name in entry["reads"])
        written = {output.value.name for output in region.outputs}
        made = [layout.size_bytes(tensor) for tensor in variant["tensors"] if tensor["value"] in written]
        assert min(made, default=0) <= entry["bytes"]["written"] <= sum(made)
        assert (entry["bytes"]["parameters"] > 0) == isinstance(region.operation, Contraction)
    others = [entries[name] for name in entries.keys() - {region.name for region in plan.regions}]
    assert others and all(entry["op"] == "Copy" and entry["bytes"]["parameters"] == 0 for entry in others)
