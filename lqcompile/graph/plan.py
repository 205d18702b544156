"""The fusion plan: what runs as one kernel, and exactly what it computes.

A plan is target-independent. It fixes the arithmetic of the network down to each rounding, so that every backend, the
NumPy reference (`lqcompile.reference`) and the integer form that ONNX Runtime runs agree bit for bit:

1. A contraction computes integers (see `Contraction`) and from them ``y`` in float64, each product and sum rounded
   once.
2. `Region.stages` follow in float64. The result is rounded once to float32: the *stream*.
3. Each `Output` applies its own stages to the stream, again in float64 rounded once to float32 (no stages: the stream
   as it is), and then its quantizer, which compares float32 with float32.

A contraction over a concatenation whose parts hold codes of different quantizers, or codes and float32, is a sum of
contractions, each over the channels of one quantizer (`lqcompile.graph.split`). The part in float32 comes first, if
there is one, then the quantizers in the order of their first channel. Each part is a region of its own: the first
leaves its float32 stream, every other one adds what the one before it left (`AddValue`, first of its stages), and what
follows the whole contraction follows the last.

Shapes leave the batch out: they are those of one sample, ``(C, H, W)`` or ``(C,)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lqcompile.graph.specs import FloatWeights, Int8Weights, LowBitWeights, Quantizer, UniformQuantizer

Shape = tuple[int, ...]
AnyQuantizer = Quantizer | UniformQuantizer
AnyWeights = LowBitWeights | Int8Weights | FloatWeights


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """``x * scale + shift``, float64[C] both; batch normalization, bias, constant Mul and Add fold into it."""

    scale: npt.NDArray[np.float64]
    shift: npt.NDArray[np.float64]

    def then(self, other: Affine) -> Affine:
        """The affine map that applies `self` first and `other` after it."""
        return Affine(scale=self.scale * other.scale, shift=self.shift * other.scale + other.shift)


@dataclass(frozen=True, kw_only=True)
class Clamp:
    """``min(max(x, low), high)``; ReLU has ``low=0`` and ``high=inf``."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Leaky:
    """``max(x, 0) + slope * min(x, 0)``, float64[C]: LeakyRelu and PRelu."""

    slope: npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HardSwish:
    """``x * min(max(x * alpha + beta, 0), 1)``, each operation rounded once."""

    alpha: float
    beta: float


@dataclass(frozen=True, kw_only=True)
class MaxPool:
    """Maximum over windows; positions outside the input do not take part. `pads` is (top, left, bottom, right)."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class AddValue:
    """Adds the float32 value `name` (the residual): ends the float64 chain but for a `Clamp`."""

    name: str


@dataclass(frozen=True, kw_only=True)
class MultiplyValue:
    """Multiplies by the float32 value `name`, of the same shape or one number per channel; ends the chain likewise."""

    name: str


Map = Affine | Clamp | Leaky | HardSwish
"""Stages that map each number by itself."""

Joining = AddValue | MultiplyValue
"""Stages that read another value."""

Stage = Map | MaxPool | Joining


@dataclass(frozen=True, kw_only=True, eq=False)
class Value:
    """A tensor that travels between regions.

    Args:
        name: its name in the ONNX graph.
        shape: of one sample.
        quantizer: the quantizer that made it; None for plain float32.
        decoded: it holds the quantizer's float32 levels, for operators that compute on floats, and not its codes.
    """

    name: str
    shape: Shape
    quantizer: AnyQuantizer | None = None
    decoded: bool = False

    @property
    def holds_codes(self) -> bool:
        """Whether it holds codes; float32 otherwise."""
        return self.quantizer is not None and not self.decoded


@dataclass(frozen=True, kw_only=True, eq=False)
class Output:
    """One tensor that a region leaves behind.

    Args:
        value: what later regions refer to.
        stages: applied to the stream (`Map` only).
    """

    value: Value
    stages: tuple[Stage, ...] = ()

    @property
    def decoded(self) -> bool:
        """Whether the quantizer's float32 levels are stored and not its codes."""
        return self.value.decoded


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How a contraction walks its input. A linear layer is a 1x1 convolution on a 1x1 image."""

    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the output for an input of `height` rows and `width` columns."""
        sizes = []
        for axis, size in enumerate((height, width)):
            span = self.dilations[axis] * (self.kernel[axis] - 1) + 1
            sizes.append((size + self.pads[axis] + self.pads[axis + 2] - span) // self.strides[axis] + 1)
        return sizes[0], sizes[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class Contraction:
    """A convolution or linear layer.

    With low-bit weights on low-bit codes the integers are ``S_ij = <b_i, c_j>`` and

        y = sum_i v_i * (sum_j u_j * S_ij),  i ascending, j ascending inside,

    where a non-zero offset acts as one more basis vector, last: ``w0`` with all bits +1, ``a0`` with code 1 at every
    position inside the image (so its sum counts valid positions only). When both bases are integers the sum is one
    integer T and ``y = T * (s_w * s_a)``. 8-bit weights on 8-bit codes likewise: ``T = sum (q - zero_point) * w``.
    With float weights or a float input everything is float32 and the order of summation is free.

    Args:
        weights: float weights are [O, C/group, kh, kw] or [O, C].
        geometry: of the convolution.
        in_shape: (C, H, W) of the input as the contraction sees it (a linear layer: (C, 1, 1)).
        out_shape: (O, OH, OW).
    """

    weights: AnyWeights
    geometry: Geometry
    in_shape: Shape
    out_shape: Shape


@dataclass(frozen=True, kw_only=True)
class AveragePool:
    """Mean over windows, in float64 from float32 and rounded with the stages; `count_include_pad` as in ONNX."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    count_include_pad: bool = False


@dataclass(frozen=True, kw_only=True)
class Concat:
    """Concatenation of the inputs along the channels.

    Args:
        of_codes: every input holds codes of one and the same quantizer. They are joined as they are, and so is the
            output: its quantizer is theirs, and is not applied again. There are no stages.
    """

    of_codes: bool = False


@dataclass(frozen=True, kw_only=True)
class Copy:
    """The first input as it is; the stages do the work (quantizing a graph input, a lone batch normalization)."""


@dataclass(frozen=True, kw_only=True)
class Softmax:
    """Softmax over the channels, in float32."""


Operation = Contraction | AveragePool | Concat | Copy | Softmax


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """What runs as one kernel: an operation, its float64 stages, and the tensors it leaves behind.

    Args:
        name: of the ONNX node that gave the operation.
        op_type: ONNX operator type, for reports.
        inputs: names of values, of which those that stages read (`Joining`) are not part.
        operation: what is computed first.
        stages: applied in float64 before the one rounding to float32.
        stream_shape: shape after the stages, before the outputs.
        outputs: at least one.
    """

    name: str
    op_type: str
    inputs: tuple[str, ...]
    operation: Operation
    stages: tuple[Stage, ...]
    stream_shape: Shape
    outputs: tuple[Output, ...]

    @property
    def residuals(self) -> tuple[str, ...]:
        """Names of the values that the stages add or multiply by."""
        return tuple(stage.name for stage in self.stages if isinstance(stage, Joining))


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A whole network.

    Args:
        inputs: float32 graph inputs, in order.
        outputs: graph outputs, in order: (name in the file, name of the value that holds it, shape of one sample).
        regions: in an order in which every value is made before it is used.
        values: every value by name, graph inputs included.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[tuple[str, str, Shape], ...]
    regions: tuple[Region, ...]
    values: dict[str, Value]


def is_integer(contraction: Contraction, quantizer: AnyQuantizer | None) -> bool:
    """Whether the contraction is one integer sum: integer bases on both sides, or 8-bit weights on 8-bit codes."""
    weights = contraction.weights
    if isinstance(weights, LowBitWeights) and isinstance(quantizer, Quantizer):
        return bool(weights.integer_basis and quantizer.integer_basis)
    return isinstance(weights, Int8Weights) and isinstance(quantizer, UniformQuantizer)


def is_exact(contraction: Contraction, quantizer: AnyQuantizer | None) -> bool:
    """Whether every backend computes the same integers: low-bit or 8-bit weights on codes of the same kind."""
    if isinstance(contraction.weights, LowBitWeights):
        return isinstance(quantizer, Quantizer)
    return isinstance(contraction.weights, Int8Weights) and isinstance(quantizer, UniformQuantizer)


def is_depthwise(contraction: Contraction) -> bool:
    """Whether each output channel reads the input channel of its own number, and no other."""
    return contraction.geometry.group == contraction.in_shape[0] == contraction.out_shape[0] > 1


def is_monotone(stages: Sequence[Stage]) -> bool:
    """Whether each channel only rises or only falls: an order before is one behind, or its reverse."""
    return all(
        not isinstance(stage, HardSwish | Joining) and not (isinstance(stage, Leaky) and bool((stage.slope < 0).any()))
        for stage in stages
    )


def fold_affine(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Join neighbouring affine maps: ``Affine, Affine --> Affine``."""
    folded: list[Stage] = []
    for stage in stages:
        last = folded[-1] if folded else None
        if isinstance(stage, Affine) and isinstance(last, Affine):
            folded[-1] = last.then(stage)
        else:
            folded.append(stage)
    return tuple(folded)
