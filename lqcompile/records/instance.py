"""The operator instance that a record is about: all of a contraction that the time of its kernels depends on."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from lqcompile.graph.plan import AnyQuantizer, Contraction, MaxPool, Plan, Region, Stage
from lqcompile.graph.specs import FloatWeights, Int8Weights, LowBitWeights, Quantizer
from lqcompile.lowering.parameters import kernel_shape, sixteen_bit_run

Instance = dict[str, Any]
"""What JSON can hold."""

LONG_RUN = 8
"""Products that are summed in 16 bits, from which on more of them save nothing to speak of (one step in `run` + 1)."""

_WEIGHTS = {LowBitWeights: "low-bit", Int8Weights: "int8", FloatWeights: "float"}


def contraction_instances(plan: Plan) -> dict[str, Instance]:
    """The instance of each contraction of a plan, by region name."""
    return {region.name: describe(plan, region) for region in plan.regions if isinstance(region.operation, Contraction)}


def describe(plan: Plan, region: Region) -> Instance:
    """The instance of a contraction.

    It says what is computed and not in which formats tensors are stored: those follow from the kernels that are chosen
    around it. Weights count by their kind, and by how many products AVX2 can sum in 16 bits, as a
    power of two of at most `LONG_RUN`.
    """
    operation = region.operation
    if not isinstance(operation, Contraction):
        raise TypeError(f"region {region.name} is not a contraction")
    value = plan.values[region.inputs[0]]
    quantizer = value.quantizer if value.holds_codes else None
    geometry = operation.geometry
    return {
        "input": list(operation.in_shape),
        "output": list(operation.out_shape),
        "kernel": list(geometry.kernel),
        "strides": list(geometry.strides),
        "pads": list(geometry.pads),
        "dilations": list(geometry.dilations),
        "group": geometry.group,
        "weights": _weights(operation, quantizer),
        "codes": _coding(quantizer),
        "stages": [_stage(stage) for stage in region.stages],
        "outputs": [
            [_coding(output.value.quantizer), output.value.decoded, [_stage(stage) for stage in output.stages]]
            for output in region.outputs
        ],
    }


def digest(instance: Instance) -> str:
    """A short name of an instance: equal ones have the same."""
    return hashlib.sha256(canonical(instance).encode()).hexdigest()[:16]


def canonical(value: Any) -> str:
    """JSON text that is equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def in_words(instance: Instance) -> str:
    """Such as ``64x56x56 -> 64x56x56, 3x3, W2A2``."""
    source, result, kernel = ("x".join(map(str, instance[name])) for name in ("input", "output", "kernel"))
    stride = "" if instance["strides"] == [1, 1] else f" stride {'x'.join(map(str, instance['strides']))}"
    group = "" if instance["group"] == 1 else f" in {instance['group']} groups"
    codes = instance["codes"]["bits"] if instance["codes"] else 32
    return f"{source} -> {result}, {kernel}{stride}{group}, W{instance['weights']['bits']}A{codes}"


def _weights(operation: Contraction, quantizer: AnyQuantizer | None) -> Instance:
    weights = operation.weights
    found: Instance = {"kind": _WEIGHTS[type(weights)], "bits": weights.bits}
    if isinstance(weights, LowBitWeights):
        found |= {"integer": weights.integer_basis, "offset": bool(weights.offset.any())}
        if weights.integer_basis and isinstance(quantizer, Quantizer) and quantizer.integer_basis:
            words = weights.integers().reshape(kernel_shape(operation))
            run = sixteen_bit_run(words, int(quantizer.basis.sum()))
            found["sixteen_bit_run"] = min(1 << run.bit_length() >> 1, LONG_RUN)
    return found


def _coding(quantizer: AnyQuantizer | None) -> Instance | None:
    if quantizer is None:
        return None
    if isinstance(quantizer, Quantizer):
        return {"bits": quantizer.bits, "integer": quantizer.integer_basis, "offset": bool(quantizer.offset)}
    return {"bits": quantizer.bits, "dtype": quantizer.dtype}


def _stage(stage: Stage) -> list[Any]:
    if isinstance(stage, MaxPool):
        return ["MaxPool", list(stage.kernel), list(stage.strides), list(stage.pads)]
    return [type(stage).__name__]
