"""What the layers of a plan cost: operations, bytes and their ratios, per sample."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lqcompile.graph.plan import AnyQuantizer, AnyWeights, Contraction, Plan, Region, Value, is_exact
from lqcompile.graph.specs import FloatWeights, Int8Weights

FLOAT_BITS = 32


@dataclass(frozen=True, kw_only=True)
class LayerStatistics:
    """Facts about one convolution or linear layer, with all that is fused into it.

    Args:
        name: of the ONNX node.
        op: ONNX operator type.
        weight_bits: bits per weight; 32 for float32.
        act_bits: bits per activation that the layer computes on; 32 for float32, which includes decoded levels.
        macs: multiply-accumulates, padding included.
        bit_operations: ``weight_bits * act_bits * macs`` where the layer computes on codes, else 0.
        packed_parameter_bytes: weights as they are stored: planes with bases, int8 with scales, or float32.
        float_parameter_bytes: the same weights in float32.
        activation_bytes: every value read and written, codes packed without gaps.
        activation_to_parameter_ratio: ``activation_bytes / packed_parameter_bytes``.
        arithmetic_intensity: operations (two per MAC) per byte of activations and packed parameters.
    """

    name: str
    op: str
    weight_bits: int
    act_bits: int
    macs: int
    bit_operations: int
    packed_parameter_bytes: int
    float_parameter_bytes: int
    activation_bytes: int
    activation_to_parameter_ratio: float
    arithmetic_intensity: float


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Sums over the layers of a plan.

    Args:
        layers: number of convolutions and linear layers.
        macs: as in `LayerStatistics`, as the next four.
        bit_operations: see `macs`.
        packed_parameter_bytes: see `macs`.
        float_parameter_bytes: see `macs`.
        activation_bytes: see `macs`; of the layers only, a value counts for each that reads it.
        activation_to_parameter_ratio: of the two sums.
        arithmetic_intensity: of the sums.
        peak_activation_bytes: most bytes of values that are alive during one region, its inputs and outputs included.
    """

    layers: int
    macs: int
    bit_operations: int
    packed_parameter_bytes: int
    float_parameter_bytes: int
    activation_bytes: int
    activation_to_parameter_ratio: float
    arithmetic_intensity: float
    peak_activation_bytes: int


def layer_statistics(plan: Plan) -> list[LayerStatistics]:
    """Facts about each convolution and linear layer, in the order in which they run."""
    return [
        _layer(plan, region, region.operation) for region in plan.regions if isinstance(region.operation, Contraction)
    ]


def totals(plan: Plan) -> Totals:
    """Sums over the layers, and the peak of the memory that activations need."""
    layers = layer_statistics(plan)
    macs = sum(layer.macs for layer in layers)
    packed_bytes = sum(layer.packed_parameter_bytes for layer in layers)
    activation_bytes = sum(layer.activation_bytes for layer in layers)
    return Totals(
        layers=len(layers),
        macs=macs,
        bit_operations=sum(layer.bit_operations for layer in layers),
        packed_parameter_bytes=packed_bytes,
        float_parameter_bytes=sum(layer.float_parameter_bytes for layer in layers),
        activation_bytes=activation_bytes,
        activation_to_parameter_ratio=activation_bytes / packed_bytes if layers else 0.0,
        arithmetic_intensity=2 * macs / (packed_bytes + activation_bytes) if layers else 0.0,
        peak_activation_bytes=peak_activation_bytes(plan),
    )


def value_bytes(value: Value) -> int:
    """Bytes of one sample: codes packed without gaps, else float32."""
    bits = value.quantizer.bits if value.quantizer is not None and value.holds_codes else FLOAT_BITS
    return (math.prod(value.shape) * bits + 7) // 8


def peak_activation_bytes(plan: Plan) -> int:
    """Most bytes alive during one region: graph inputs until their last reader, graph outputs to the end."""
    last_use = {source: len(plan.regions) for _, source, _ in plan.outputs}
    for index, region in enumerate(plan.regions):
        for name in (*region.inputs, *region.residuals):
            last_use[name] = max(last_use.get(name, 0), index)
    alive = {value.name for value in plan.inputs}
    peak = 0
    for index, region in enumerate(plan.regions):
        alive |= {output.value.name for output in region.outputs}
        peak = max(peak, sum(value_bytes(plan.values[name]) for name in alive))
        alive = {name for name in alive if last_use.get(name, 0) > index}
    return peak


def _layer(plan: Plan, region: Region, contraction: Contraction) -> LayerStatistics:
    source = plan.values[region.inputs[0]]
    quantizer: AnyQuantizer | None = source.quantizer if source.holds_codes else None
    weights = contraction.weights
    act_bits = FLOAT_BITS if quantizer is None else quantizer.bits
    macs = math.prod(contraction.out_shape) * math.prod(weights.shape[1:])
    packed_bytes = packed_weight_bytes(weights)
    activation_bytes = sum(value_bytes(value) for value in _touched(plan, region))
    return LayerStatistics(
        name=region.name,
        op=region.op_type,
        weight_bits=weights.bits,
        act_bits=act_bits,
        macs=macs,
        bit_operations=weights.bits * act_bits * macs if is_exact(contraction, quantizer) else 0,
        packed_parameter_bytes=packed_bytes,
        float_parameter_bytes=4 * math.prod(weights.shape),
        activation_bytes=activation_bytes,
        activation_to_parameter_ratio=activation_bytes / packed_bytes,
        arithmetic_intensity=2 * macs / (activation_bytes + packed_bytes),
    )


def packed_weight_bytes(weights: AnyWeights) -> int:
    """Bytes of weights as stored: planes and the parts of the basis that are in use, int8 and scales, or float32."""
    if isinstance(weights, FloatWeights):
        return weights.values.nbytes
    if isinstance(weights, Int8Weights):
        return weights.values.nbytes + weights.scale.nbytes
    size = weights.planes.nbytes + weights.basis.nbytes
    size += weights.scale.nbytes if weights.integer_basis else 0
    return size + (weights.offset.nbytes if weights.offset.any() else 0)


def _touched(plan: Plan, region: Region) -> Iterable[Value]:
    """Values that a region reads, each once, and those that it writes."""
    names = dict.fromkeys((*region.inputs, *region.residuals))
    return [*(plan.values[name] for name in names), *(output.value for output in region.outputs)]
