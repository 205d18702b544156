"""Random plans for tests of the reference, the integer form and `verify`: built from plan objects, without a file."""

from __future__ import annotations

import itertools

import numpy as np

from lqcompile import encoding
from lqcompile.graph.plan import (
    AddValue,
    Affine,
    AnyQuantizer,
    AnyWeights,
    AveragePool,
    Clamp,
    Concat,
    Contraction,
    Copy,
    Geometry,
    Leaky,
    MaxPool,
    Operation,
    Output,
    Plan,
    Region,
    Shape,
    Softmax,
    Stage,
    Value,
)
from lqcompile.graph.specs import FloatWeights, Int8Weights, LowBitWeights, Quantizer, UniformQuantizer


def random_quantizer(rng: np.random.Generator, bits: int, *, integer: bool = False, offset: bool = False) -> Quantizer:
    """A quantizer of random basis; levels may tie where the basis is an integer one."""
    scale = float(np.float32(rng.integers(1, 200) / 256)) if integer else 1.0
    basis = (rng.integers(0, 30, bits) if integer else rng.uniform(0.1, 1.0, bits)).astype(np.float32)
    shift = float(np.float32(rng.normal())) if offset and not integer else 0.0
    levels, codes = encoding.activation_levels(basis.astype(np.float64) * scale, shift)
    return Quantizer(
        name="quantizer",
        thresholds=encoding.midpoint_thresholds(levels).astype(np.float32),
        levels=levels.astype(np.float32),
        basis=basis,
        codes=codes,
        offset=shift,
        scale=scale,
        integer_basis=integer,
    )


def random_uniform(rng: np.random.Generator, dtype: str = "uint8") -> UniformQuantizer:
    """An 8-bit quantizer of random scale and zero point."""
    limits = np.iinfo(dtype)
    zero_point = int(rng.integers(limits.min, limits.max + 1))
    return UniformQuantizer(
        name="uniform", scale=np.float32(rng.uniform(0.01, 0.1)), zero_point=zero_point, dtype=dtype
    )


def random_low_bit(
    rng: np.random.Generator, shape: Shape, bits: int, *, integer: bool = False, offset: bool = False
) -> LowBitWeights:
    """Low-bit weights of random planes; with `offset`, some of the channels have one."""
    outputs = shape[0]
    planes = rng.integers(0, 2, (outputs, bits, int(np.prod(shape[1:]))))
    basis = rng.integers(-30, 31, (outputs, bits)) if integer else rng.normal(size=(outputs, bits))
    scale = rng.integers(1, 200, outputs) / 256 if integer else np.ones(outputs)
    shift = rng.normal(size=outputs) * (rng.random(outputs) < 0.7) if offset and not integer else np.zeros(outputs)
    return LowBitWeights(
        planes=encoding.pack_planes(planes).astype(np.uint8),
        basis=basis.astype(np.float32),
        offset=shift.astype(np.float32),
        scale=scale.astype(np.float32),
        integer_basis=integer,
        shape=shape,
    )


def random_int8(rng: np.random.Generator, shape: Shape) -> Int8Weights:
    """8-bit weights, the most negative and the most positive among them."""
    values = rng.integers(-128, 128, shape).astype(np.int8)
    values.flat[0], values.flat[-1] = -128, 127
    return Int8Weights(values=values, scale=rng.uniform(0.01, 0.1, shape[0]).astype(np.float32))


def random_float(rng: np.random.Generator, shape: Shape) -> FloatWeights:
    """Ordinary weights."""
    return FloatWeights(values=rng.normal(size=shape).astype(np.float32))


def random_affine(rng: np.random.Generator, channels: int, scale: float = 1.0) -> Affine:
    """An affine map with scales of either sign."""
    return Affine(scale=rng.normal(size=channels) * scale, shift=rng.normal(size=channels))


def random_geometry(rng: np.random.Generator, group: int = 1) -> Geometry:
    """Kernel 1 to 3, and any stride, padding and dilation up to 2, per side."""
    kernel = tuple(int(k) for k in rng.integers(1, 4, 2))
    strides, dilations = (tuple(int(v) for v in rng.integers(1, 3, 2)) for _ in range(2))
    pads = tuple(int(v) for v in rng.integers(0, 3, 4))
    return Geometry(kernel=kernel, strides=strides, pads=pads, dilations=dilations, group=group)


class PlanBuilder:
    """Grows a plan region by region; the first region copies the graph input `x` and quantizes it."""

    def __init__(self, rng: np.random.Generator, shape: Shape) -> None:
        self.rng = rng
        self.names = (f"v{n}" for n in itertools.count())
        self.input = Value(name="x", shape=shape)
        self.values = {"x": self.input}
        self.regions: list[Region] = []

    def add(
        self,
        operation: Operation,
        inputs: tuple[Value, ...],
        shape: Shape,
        stages: tuple[Stage, ...] = (),
        outputs: tuple[tuple[AnyQuantizer | None, bool, tuple[Stage, ...]], ...] = ((None, False, ()),),
    ) -> list[Value]:
        """Add a region; outputs are (quantizer, decoded, stages)."""
        made = []
        for quantizer, decoded, own in outputs:
            value = Value(name=next(self.names), shape=shape, quantizer=quantizer, decoded=decoded)
            self.values[value.name] = value
            made.append(Output(value=value, stages=own))
        self.regions.append(
            Region(
                name=f"region{len(self.regions)}",
                op_type=type(operation).__name__,
                inputs=tuple(value.name for value in inputs),
                operation=operation,
                stages=stages,
                stream_shape=shape,
                outputs=tuple(made),
            )
        )
        return [output.value for output in made]

    def quantized_input(self, quantizer: AnyQuantizer | None, stages: tuple[Stage, ...] = ()) -> Value:
        """Copy the graph input into codes."""
        return self.add(Copy(), (self.input,), self.input.shape, stages, ((quantizer, False, ()),))[0]

    def contract(
        self,
        source: Value,
        weights: AnyWeights,
        geometry: Geometry,
        stages: tuple[Stage, ...] = (),
        outputs: tuple[tuple[AnyQuantizer | None, bool, tuple[Stage, ...]], ...] = ((None, False, ()),),
    ) -> list[Value]:
        """Add a contraction and the stages behind it."""
        in_shape = source.shape if len(source.shape) == 3 else (*source.shape, 1, 1)
        made = len(weights.planes if isinstance(weights, LowBitWeights) else weights.values)
        size = geometry.output_size(in_shape[1], in_shape[2])
        operation = Contraction(weights=weights, geometry=geometry, in_shape=in_shape, out_shape=(made, *size))
        shape: Shape = (made, *size)
        for stage in stages:
            if isinstance(stage, MaxPool):
                pooled = Geometry(kernel=stage.kernel, strides=stage.strides, pads=stage.pads)
                shape = (made, *pooled.output_size(shape[1], shape[2]))
        if len(source.shape) == 1:
            shape = shape[:1]
        return self.add(operation, (source,), shape, stages, outputs)

    def finish(self, *outputs: Value) -> Plan:
        """The plan, with `outputs` as graph outputs out0, out1 and so on."""
        return Plan(
            inputs=(self.input,),
            outputs=tuple((f"out{n}", value.name, value.shape) for n, value in enumerate(outputs)),
            regions=tuple(self.regions),
            values=self.values,
        )


def single_layer(rng: np.random.Generator, weights: str, quantizer: AnyQuantizer | None, *, offset: bool) -> Plan:
    """One contraction of random shape with an affine map, a clamp and two outputs."""
    group = int(rng.integers(1, 4))
    depth, per_group = int(rng.integers(1, 6)), int(rng.integers(1, 4))
    geometry = random_geometry(rng, group)
    outputs = group * per_group
    builder = PlanBuilder(rng, (group * depth, int(rng.integers(6, 10)), int(rng.integers(6, 10))))
    codes = builder.quantized_input(quantizer)
    shape = (outputs, depth, *geometry.kernel)
    bits = int(rng.integers(1, 5))
    made: AnyWeights
    if weights == "int8":
        made = random_int8(rng, shape)
    elif weights == "float":
        made = random_float(rng, shape)
    else:
        made = random_low_bit(rng, shape, bits, integer=weights == "integer", offset=offset)
    stages = (random_affine(rng, outputs, 0.2), Clamp(low=-1.0, high=2.0))
    following = random_quantizer(rng, int(rng.integers(1, 5)))
    return builder.finish(*builder.contract(codes, made, geometry, stages, ((None, False, ()), (following, True, ()))))


def random_leaky(rng: np.random.Generator, channels: int, *, falling: bool = False) -> Leaky:
    """Slopes below 1; every other one negative with `falling`."""
    slope = rng.uniform(0.05, 0.9, channels)
    return Leaky(slope=slope * np.where(np.arange(channels) % 2, -1.0, 1.0) if falling else slope)


def small_network(rng: np.random.Generator, *, integer: bool, edges: str = "int8") -> Plan:
    """A residual network with every kind of region; `edges` is the kind of first and last layer: int8 or float."""
    builder = PlanBuilder(rng, (3, 12, 12))

    def low_bit(source: Value, outputs: int, geometry: Geometry) -> LowBitWeights:
        shape = (outputs, source.shape[0] // geometry.group, *geometry.kernel)
        return random_low_bit(rng, shape, 2, integer=integer, offset=True)

    def coder() -> Quantizer:
        return random_quantizer(rng, 2, integer=integer, offset=True)

    around = Geometry(kernel=(3, 3), pads=(1, 1, 1, 1))
    first = random_int8(rng, (8, 3, 3, 3)) if edges == "int8" else random_float(rng, (8, 3, 3, 3))
    image = builder.quantized_input(random_uniform(rng) if edges == "int8" else None)
    pool = MaxPool(kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    scale = random_affine(rng, 8, 0.3)
    relu = Clamp(low=0.0, high=np.inf)
    stream, codes = builder.contract(
        image, first, around, (pool, scale), ((None, False, ()), (coder(), False, (relu,)))
    )
    hidden = builder.contract(
        codes, low_bit(codes, 8, around), around, (random_affine(rng, 8, 0.1), relu), ((coder(), False, ()),)
    )[0]
    joined = builder.contract(
        hidden,
        low_bit(hidden, 8, around),
        around,
        (random_affine(rng, 8, 0.1), AddValue(name=stream.name), relu),
        ((None, False, ()), (coder(), False, (random_affine(rng, 8),)), (coder(), True, ())),
    )
    mean = AveragePool(kernel=(2, 2), strides=(1, 1), pads=(0, 0, 1, 1), count_include_pad=integer)
    averaged = builder.add(mean, (joined[2],), joined[2].shape)[0]
    both = builder.add(Concat(), (averaged, joined[0]), (16, *averaged.shape[1:]), (), ((coder(), False, ()),))[0]
    strided = Geometry(kernel=(3, 3), strides=(2, 2), pads=(0, 1, 1, 0), dilations=(2, 1), group=2)
    grouped = builder.contract(both, low_bit(both, 6, strided), strided, (random_affine(rng, 6, 0.1),))[0]
    whole = AveragePool(kernel=grouped.shape[1:], strides=(1, 1), pads=(0, 0, 0, 0))
    final = random_uniform(rng, "int8") if edges == "int8" else None
    flat = builder.add(whole, (grouped,), (6,), (), ((final, False, ()),))[0]
    last = random_int8(rng, (5, 6)) if edges == "int8" else random_float(rng, (5, 6))
    logits = builder.contract(flat, last, Geometry(), (random_affine(rng, 5),))[0]
    return builder.finish(logits, builder.add(Softmax(), (logits,), (5,))[0], joined[2])
