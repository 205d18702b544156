"""Values in their logical encoding: level indices, 8-bit codes or float32.

A value that holds codes of a `Quantizer` is uint8 level indices; of a `UniformQuantizer`, the uint8 or int8 numbers of
ONNX QuantizeLinear; any other value is float32. Shapes are NCHW (or NC).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.encoding import code_bits, encode
from lqcompile.graph.plan import AnyQuantizer, Value
from lqcompile.graph.specs import Quantizer

Array = npt.NDArray[Any]


def held_quantizer(value: Value) -> AnyQuantizer | None:
    """The quantizer whose codes `value` holds; None for float32, decoded levels among them."""
    return value.quantizer if value.holds_codes else None


def quantize(x: npt.NDArray[np.float32], quantizer: AnyQuantizer) -> Array:
    """Codes of float32 values.

    Args:
        x: float32[...].
        quantizer: a `UniformQuantizer` divides in float32, rounds half to even, adds the zero point and saturates, as
            ONNX QuantizeLinear does.

    Returns:
        uint8[...] level indices, or uint8/int8[...].
    """
    if isinstance(quantizer, Quantizer):
        return encode(x, quantizer.thresholds)
    limits = np.iinfo(quantizer.dtype)
    steps = np.rint(x / np.float32(quantizer.scale))
    low, high = limits.min - quantizer.zero_point, limits.max - quantizer.zero_point
    bounded: Array = np.clip(steps, low, high).astype(np.int32) + np.int32(quantizer.zero_point)
    return bounded.astype(quantizer.dtype)


def dequantize(codes: Array, quantizer: AnyQuantizer) -> npt.NDArray[np.float32]:
    """Real values of codes, as LQQuantize and DequantizeLinear give them: [...] -> float32[...]."""
    if isinstance(quantizer, Quantizer):
        levels: npt.NDArray[np.float32] = quantizer.levels[codes]
        return levels
    centred: npt.NDArray[np.float32] = (codes.astype(np.int32) - quantizer.zero_point).astype(np.float32)
    return centred * np.float32(quantizer.scale)


def integer_levels(quantizer: Quantizer) -> npt.NDArray[np.int64]:
    """``sum_j n_j * c_j`` of each level of an integer basis: int64[2**K]."""
    bits = code_bits(quantizer.codes, quantizer.bits).astype(np.int64)
    result: npt.NDArray[np.int64] = np.rint(quantizer.basis).astype(np.int64) @ bits
    return result


def level_bits(codes: Array, quantizer: Quantizer) -> npt.NDArray[np.uint8]:
    """Code bits of level indices: uint8[N, C, H, W] -> uint8[N, K, C, H, W] of 0/1."""
    table = code_bits(quantizer.codes, quantizer.bits)
    return np.stack([table[j][codes] for j in range(quantizer.bits)], axis=1)
