"""Kernels of the layers of real networks, compiled for ARM, as assembly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lqcompile.schedules.problem import Tile

from lqcompile import encoding
from lqcompile.codegen import compile_driver
from lqcompile.graph.plan import Affine, Clamp, Contraction, Copy, Geometry, MaxPool, Output, Plan, Region, Value
from lqcompile.graph.specs import Int8Weights, LowBitWeights, Quantizer, UniformQuantizer
from lqcompile.lowering.choose import Choice
from lqcompile.lowering.driver import lower_program
from lqcompile.lowering.lower import lower
from lqcompile.target import find

from .llvm_mca import ModelError
from .loops import Part, functions, parts

LAYER, READER = "layer", "reader"
"""Regions of the contraction and of what reads its codes; symbols of their kernels hold the names."""

READER_CHANNELS = 16


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A convolution with as much padding as keeps the size at stride 1, or a linear layer (size 1).

    Args:
        inputs, outputs: channels.
        size: rows and columns of the input.
        kernel, stride: of rows and columns.
        pool: window and stride of the max-pooling behind it.
        count: how often the network has it.
        edge: first or last layer, in 8 bits; the last one gives float32.
    """

    inputs: int
    outputs: int
    size: int
    kernel: int = 3
    stride: int = 1
    pool: int = 1
    count: int = 1
    edge: str = ""

    @property
    def name(self) -> str:
        """For people."""
        stride = f" /{self.stride}" if self.stride > 1 else ""
        pool = f" pool {self.pool}" if self.pool > 1 else ""
        return f"{self.kernel}x{self.kernel} {self.inputs}->{self.outputs} @{self.size}{stride}{pool}"

    @property
    def out_size(self) -> int:
        """Rows and columns of the output, before pooling."""
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return self.out_size**2 * self.outputs * self.inputs * self.kernel**2


NETWORKS = {
    "ResNet-18": (
        Shape(inputs=3, outputs=64, size=224, kernel=7, stride=2, edge="first"),
        Shape(inputs=64, outputs=64, size=56, count=4),
        Shape(inputs=64, outputs=128, size=56, stride=2),
        Shape(inputs=64, outputs=128, size=56, kernel=1, stride=2),
        Shape(inputs=128, outputs=128, size=28, count=3),
        Shape(inputs=128, outputs=256, size=28, stride=2),
        Shape(inputs=128, outputs=256, size=28, kernel=1, stride=2),
        Shape(inputs=256, outputs=256, size=14, count=3),
        Shape(inputs=256, outputs=512, size=14, stride=2),
        Shape(inputs=256, outputs=512, size=14, kernel=1, stride=2),
        Shape(inputs=512, outputs=512, size=7, count=3),
        Shape(inputs=512, outputs=1000, size=1, kernel=1, edge="last"),
    ),
    "VGG-Small": (
        Shape(inputs=3, outputs=128, size=32, edge="first"),
        Shape(inputs=128, outputs=128, size=32, pool=2),
        Shape(inputs=128, outputs=256, size=16),
        Shape(inputs=256, outputs=256, size=16, pool=2),
        Shape(inputs=256, outputs=512, size=8),
        Shape(inputs=512, outputs=512, size=8, pool=2),
        Shape(inputs=8192, outputs=10, size=1, kernel=1, edge="last"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A compiled layer.

    Args:
        family: kernel family.
        pairs: plane pairs that a multiply-accumulate of the layer takes (popcount), else 1.
        parts: of its functions.
    """

    family: str
    pairs: int
    parts: tuple[Part, ...]

    def inner(self) -> list[Part]:
        """Parts of the innermost loop that multiplies most."""
        work: dict[int, float] = {}
        for part in self.parts:
            work[part.loop] = work.get(part.loop, 0.0) + part.macs * part.passes
        busiest = max(work, key=work.__getitem__)
        return [part for part in self.parts if part.loop == busiest]


def layer_plan(shape: Shape, bits: tuple[int, int]) -> Plan:
    """One layer on integer bases with random weights: batch normalization, ReLU and the next quantizer follow."""
    act_bits = bits[1]
    rng = np.random.default_rng(0)
    x = Value(name="x", shape=(shape.inputs, shape.size, shape.size))
    source, weights = operands(shape, *bits)
    codes = Value(name="codes", shape=x.shape, quantizer=source)
    affine = Affine(scale=rng.uniform(0.01, 0.1, shape.outputs), shift=rng.normal(size=shape.outputs))
    geometry = Geometry(kernel=(shape.kernel,) * 2, strides=(shape.stride,) * 2, pads=(shape.kernel // 2,) * 4)
    out = (shape.outputs, shape.out_size, shape.out_size)
    pool = MaxPool(kernel=(shape.pool,) * 2, strides=(shape.pool,) * 2, pads=(0,) * 4)
    final = (shape.outputs, shape.out_size // shape.pool, shape.out_size // shape.pool)
    last = shape.edge == "last"
    y = Value(name="y", shape=final, quantizer=None if last else next_quantizer(act_bits))
    stages = (*((pool,) if shape.pool > 1 else ()), affine, Clamp(low=0.0, high=float("inf")))
    contraction = Contraction(weights=weights, geometry=geometry, in_shape=x.shape, out_shape=out)
    regions = [
        Region(name="copy", op_type="Copy", inputs=("x",), operation=Copy(), stages=(), stream_shape=x.shape,
               outputs=(Output(value=codes, stages=()),)),
        Region(name=LAYER, op_type="Conv", inputs=("codes",), operation=contraction, stages=stages,
               stream_shape=final, outputs=(Output(value=y, stages=()),)),
    ]  # fmt: skip
    values = [x, codes, y]
    if not last:  # a reader of codes: packed bits are stored for it
        z = Value(name="z", shape=(READER_CHANNELS, *final[1:]))
        _, planes = operands(Shape(inputs=shape.outputs, outputs=READER_CHANNELS, size=1, kernel=1), *bits)
        reader = Contraction(weights=planes, geometry=Geometry(), in_shape=final, out_shape=z.shape)
        regions.append(Region(name=READER, op_type="Conv", inputs=("y",), operation=reader, stages=(),
                              stream_shape=z.shape, outputs=(Output(value=z, stages=()),)))  # fmt: skip
        values.append(z)
    return Plan(
        inputs=(x,),
        outputs=(("out", values[-1].name, values[-1].shape),),
        regions=tuple(regions),
        values={value.name: value for value in values},
    )


def next_quantizer(bits: int) -> Quantizer:
    """Levels 0 to 2^bits - 1 with integer bases."""
    basis = np.float32(2.0) ** np.arange(bits, dtype=np.float32)
    levels, codes = encoding.activation_levels(basis.astype(np.float64), 0.0)
    return Quantizer(
        name="quantizer",
        thresholds=encoding.midpoint_thresholds(levels).astype(np.float32),
        levels=levels.astype(np.float32),
        basis=basis,
        codes=codes,
        offset=0.0,
        scale=1.0,
        integer_basis=True,
    )


def operands(
    shape: Shape, weight_bits: int, act_bits: int
) -> tuple[Quantizer | UniformQuantizer, LowBitWeights | Int8Weights]:
    """The quantizer of the input and the weights."""
    rng = np.random.default_rng(1)
    dims = (shape.outputs, shape.inputs, shape.kernel, shape.kernel)
    if shape.edge:
        values = rng.integers(-127, 128, dims).astype(np.int8)
        uniform = UniformQuantizer(name="image", scale=np.float32(0.02), zero_point=128, dtype="uint8")
        return uniform, Int8Weights(values=values, scale=np.full(shape.outputs, 0.01, np.float32))
    planes = rng.integers(0, 2, (shape.outputs, weight_bits, int(np.prod(dims[1:]))))
    return next_quantizer(act_bits), LowBitWeights(
        planes=encoding.pack_planes(planes).astype(np.uint8),
        basis=np.tile(np.float32(2.0) ** np.arange(weight_bits, dtype=np.float32), (shape.outputs, 1)),
        offset=np.zeros(shape.outputs, np.float32),
        scale=np.full(shape.outputs, 0.01, np.float32),
        integer_basis=True,
        shape=dims,
    )


def compile_layer(
    shape: Shape, bits: tuple[int, int], target: str, family: str | None = None, tile: Tile | None = None
) -> Kernel:
    """Compiles a layer for `target`, with the family and tile that are chosen for it, or the ones asked for.

    Raises:
        ModelError: the assembly has loops whose length it does not tell.
    """
    machine = find(target)
    plan = layer_plan(shape, bits)
    edges = {LAYER} if shape.edge else set()
    forced = {region.name: family for region in plan.regions[1:] if family and region.name not in edges}
    program = lower(plan, machine, families=forced)
    chosen = program.choices[LAYER].family
    if tile:
        program = lower(plan, machine, choices={LAYER: Choice(family=chosen, reason="asked for", tile=tile)})
    _, driver = lower_program(program)
    text: str = compile_driver(driver, machine).mod.inspect_source("asm")
    code = {name: lines for name, lines in functions(text).items() if LAYER in name and "sums" not in name}
    found = [part for lines in code.values() for part in parts(lines, chosen)]
    pairs = bits[0] * bits[1] if chosen == "popcount" else 1
    done = sum(part.macs * part.passes for part in found) / pairs
    if round(done) < shape.macs:
        raise ModelError(f"{shape.name} for {target}: found {done:.0f} multiply-accumulates, expected {shape.macs}")
    return Kernel(family=chosen, pairs=pairs, parts=tuple(found))
