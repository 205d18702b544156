"""Quantizers and weights as the compiler sees them: plain arrays, read-only.

The constructors check nothing. `lqcompile.graph.contract` and `lqcompile.graph.qdq` read them from nodes of a model,
check them there and name the node in the error.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import numpy.typing as npt

from lqcompile.encoding import unpack_planes

Float32Array = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantizer:
    """A learned low-bit quantizer: ``levels[#(x > thresholds)]``.

    Args:
        name: of the ONNX node.
        thresholds: float32[2^K-1], ascending.
        levels: float32[2^K], ascending; ``offset + scale * sum_j basis[j] * bit_j(codes[l])``.
        basis: float32[K], integers when `integer_basis`.
        codes: uint8[2^K], a permutation; bit j of ``codes[l]`` is c_j of level l.
        offset: a0, a float32 value.
        scale: a float32 value; 1 unless `integer_basis`.
        integer_basis: levels are non-negative integers of at most 8 bits, times the scale.
    """

    name: str
    thresholds: Float32Array
    levels: Float32Array
    basis: Float32Array
    codes: UInt8Array
    offset: float
    scale: float
    integer_basis: bool

    def __post_init__(self) -> None:
        _freeze(self)

    @property
    def bits(self) -> int:
        """K, bits per code."""
        return len(self.basis)


@dataclass(frozen=True, kw_only=True, eq=False)
class UniformQuantizer:
    """An 8-bit quantizer, ``QuantizeLinear`` per tensor: ``clip(round_half_even(x / scale) + zero_point)``.

    Args:
        name: of the ONNX node.
        scale: positive; the division happens in float32.
        zero_point: the code of 0.0.
        dtype: of the codes.
    """

    name: str
    scale: np.float32
    zero_point: int
    dtype: Literal["uint8", "int8"]

    @property
    def bits(self) -> int:
        """Bits per code."""
        return 8


@dataclass(frozen=True, kw_only=True, eq=False)
class LowBitWeights:
    """Weights ``w[o,m] = offset[o] + scale[o] * sum_i basis[o,i] * b_i[o,m]`` with ``b_i`` in {-1, +1}.

    Args:
        planes: uint8[O, Kw, ceil(M/8)], little bit order, 1 is +1 and 0 is -1, tail bits 0; M = product of `shape[1:]`.
        basis: float32[O, Kw], integers when `integer_basis`.
        offset: float32[O].
        scale: float32[O]; 1 unless `integer_basis`.
        integer_basis: weights are integers that fit int8, times the scale of their channel.
        shape: [O, C/group, kh, kw] or [O, C].
    """

    planes: UInt8Array
    basis: Float32Array
    offset: Float32Array
    scale: Float32Array
    integer_basis: bool
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _freeze(self)

    @property
    def bits(self) -> int:
        """Kw, bits per weight."""
        return int(self.basis.shape[1])

    def bits_array(self) -> UInt8Array:
        """Unpacked planes: uint8[O, Kw, M] of 0/1."""
        return unpack_planes(self.planes, int(np.prod(self.shape[1:])))

    def dequantize(self) -> Float32Array:
        """The weights, float32[shape], summed in float64 and rounded once; exact for integer bases."""
        signs = 2.0 * self.bits_array() - 1.0
        total = np.einsum("ok,okm->om", self.basis.astype(np.float64), signs)
        weights = self.offset[:, None].astype(np.float64) + self.scale[:, None].astype(np.float64) * total
        result: Float32Array = weights.astype(np.float32).reshape(self.shape)
        return result

    def integers(self) -> npt.NDArray[np.int8]:
        """The weights without their scale, int8[shape]; meaningful for integer bases only."""
        signs = 2 * self.bits_array().astype(np.int32) - 1
        total = np.einsum("ok,okm->om", self.basis.astype(np.int32), signs)
        result: npt.NDArray[np.int8] = total.astype(np.int8).reshape(self.shape)
        return result


@dataclass(frozen=True, kw_only=True, eq=False)
class Int8Weights:
    """8-bit weights ``values * scale``, zero point 0.

    Args:
        values: int8[O, ...].
        scale: float32[O].
    """

    values: npt.NDArray[np.int8]
    scale: Float32Array

    def __post_init__(self) -> None:
        _freeze(self)

    @property
    def bits(self) -> int:
        """Bits per weight."""
        return 8

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        return self.values.shape

    def dequantize(self) -> Float32Array:
        """The weights, float32[shape], rounded once."""
        scale = self.scale.reshape(-1, *([1] * (self.values.ndim - 1)))
        return self.values.astype(np.float32) * scale


@dataclass(frozen=True, kw_only=True, eq=False)
class FloatWeights:
    """Ordinary weights: float32[O, ...]."""

    values: Float32Array

    def __post_init__(self) -> None:
        _freeze(self)

    @property
    def bits(self) -> int:
        """Bits per weight."""
        return 32

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weights."""
        return self.values.shape

    def dequantize(self) -> Float32Array:
        """The weights, float32[shape]."""
        return self.values


def same_codes(quantizer: Quantizer | UniformQuantizer) -> Hashable:
    """Equal for quantizers that give the same codes, and the same values to them."""
    if isinstance(quantizer, UniformQuantizer):
        return ("uniform", float(quantizer.scale), quantizer.zero_point, quantizer.dtype)
    arrays = (quantizer.thresholds, quantizer.levels, quantizer.basis, quantizer.codes)
    return (*(array.tobytes() for array in arrays), quantizer.offset, quantizer.scale, quantizer.integer_basis)


def _freeze(spec: Quantizer | LowBitWeights | Int8Weights | FloatWeights) -> None:
    """Replace arrays by read-only contiguous copies, so that neither side can change the other's."""
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, np.ndarray):
            copy = np.array(value, order="C")
            copy.flags.writeable = False
            object.__setattr__(spec, field.name, copy)
