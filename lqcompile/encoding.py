"""The codes: levels, thresholds, bit planes and their packing.

Weights of an output channel are ``w[n] = w0 + sum_i v[i] * b_i[n]`` with ``b_i`` in {-1, +1}; activations of a layer
are ``a[k] = a0 + sum_j u[j] * c_j[k]`` with ``c_j`` in {0, 1} (LQ-Nets, Zhang et al., ECCV 2018, section 3.1; the
offsets ``w0`` and ``a0`` are ours). Both are stored as 0/1 bit planes; a weight bit of 1 stands for +1 and a bit of 0
for -1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lqcompile.errors import EncodingError

MAX_BITS = 4
"""Most bits per weight or activation code."""

MAX_WEIGHT_TOTAL = 127
"""Largest ``sum |m|`` of an integer weight basis: a weight then fits int8."""

MAX_ACTIVATION_TOTAL = 255
"""Largest ``sum n`` of an integer activation basis: a level then fits uint8."""

SCALE_BITS = 16
"""Significant bits of the scale of an integer basis: scale times any 8-bit integer is then exact in float32."""

FloatArray = npt.NDArray[np.floating]


def code_bits(codes: npt.ArrayLike, bits: int) -> npt.NDArray[np.uint8]:
    """Split codes into their bits, least significant first.

    Args:
        codes: integers below ``2**bits``, any shape.
        bits: number of bit planes.

    Returns:
        uint8[bits, *codes.shape] of 0/1.

    Raises:
        EncodingError: a code does not fit in `bits`.

    Example:
        >>> code_bits([0, 1, 2, 3], 2).tolist()
        [[0, 1, 0, 1], [0, 0, 1, 1]]
    """
    array = np.asarray(codes, dtype=np.int64)
    if array.size and (array.min() < 0 or array.max() >= 1 << bits):
        raise EncodingError(f"codes: found values {array.min()}..{array.max()}, expected 0..{(1 << bits) - 1}")
    planes = np.arange(bits).reshape(-1, *([1] * array.ndim))
    return ((array >> planes) & 1).astype(np.uint8)


def bits_to_codes(planes: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Join bit planes into codes; the inverse of `code_bits`.

    Args:
        planes: 0/1 integers [K, ...], plane 0 least significant, K <= 8.

    Returns:
        uint8[...].
    """
    weights = (1 << np.arange(len(planes))).reshape(-1, *([1] * (planes.ndim - 1)))
    result: npt.NDArray[np.uint8] = (planes.astype(np.int64) * weights).sum(axis=0).astype(np.uint8)
    return result


def activation_levels(
    basis: npt.ArrayLike, offset: float = 0.0
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Levels of an activation basis, ascending, and the code of each.

    Ties keep the order of their codes, so the result is deterministic.

    Args:
        basis: float[K].
        offset: a0.

    Returns:
        levels float64[2**K] ascending, codes uint8[2**K]: bit j of ``codes[l]`` is c_j of level l.

    Example:
        >>> levels, codes = activation_levels([1.0, 2.5])
        >>> levels.tolist(), codes.tolist()
        ([0.0, 1.0, 2.5, 3.5], [0, 1, 2, 3])
    """
    vector = np.asarray(basis, dtype=np.float64)
    table = code_bits(np.arange(1 << len(vector)), len(vector)).astype(np.float64)
    levels = offset + vector @ table
    order = np.argsort(levels, kind="stable")
    return levels[order], order.astype(np.uint8)


def weight_levels(basis: npt.ArrayLike, offset: float = 0.0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8]]:
    """Levels of a weight basis, ascending, and the code of each; as `activation_levels` with bits in {-1, +1}."""
    vector = np.asarray(basis, dtype=np.float64)
    return activation_levels(2.0 * vector, offset - float(vector.sum()))


def midpoint_thresholds(levels: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Thresholds half-way between ascending levels: float64[L] -> float64[L - 1]."""
    array = np.asarray(levels, dtype=np.float64)
    result: npt.NDArray[np.float64] = (array[1:] + array[:-1]) / 2
    return result


def encode(x: npt.ArrayLike, thresholds: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Level index of each value: ``#(x > thresholds)``, strictly.

    A NaN exceeds no threshold and so has level index 0, as in every backend.

    Args:
        x: float[...].
        thresholds: float[L - 1], ascending, of the same dtype as `x` (compared without conversion).

    Returns:
        uint8[...] in 0..L-1.

    Example:
        >>> encode([-1.0, 0.5, 0.6, 9.0], [0.5, 1.5]).tolist()
        [0, 0, 1, 2]
    """
    values = np.asarray(x)
    result = np.zeros(values.shape, dtype=np.uint8)
    for threshold in np.asarray(thresholds):
        result += values > threshold
    return result


def pack_planes(planes: npt.NDArray[np.integer], word_bits: int = 8) -> npt.NDArray[np.unsignedinteger]:
    """Pack 0/1 values along the last axis into words.

    Same bit order as ``numpy.packbits(bitorder="little")``.

    Args:
        planes: 0/1 integers [..., N].
        word_bits: packing word, in bits (8, 16, 32 or 64).

    Returns:
        uint{word_bits}[..., ceil(N / word_bits)], least significant bit first, tail bits zero.

    Raises:
        EncodingError: a value is neither 0 nor 1, or `word_bits` is not one of the four.

    Example:
        >>> pack_planes(np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1]])).tolist()
        [[1, 1]]
    """
    if word_bits not in (8, 16, 32, 64):
        raise EncodingError(f"packing word: found {word_bits} bits, expected 8, 16, 32 or 64")
    if planes.size and not np.isin(planes, (0, 1)).all():
        raise EncodingError(f"bit planes: found values {planes.min()}..{planes.max()}, expected only 0 and 1")
    tail = -planes.shape[-1] % word_bits
    padded = np.pad(planes.astype(np.uint8), [(0, 0)] * (planes.ndim - 1) + [(0, tail)])
    packed = np.packbits(padded, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view(np.dtype(f"<u{word_bits // 8}"))


def unpack_planes(words: npt.NDArray[np.unsignedinteger], length: int) -> npt.NDArray[np.uint8]:
    """Inverse of `pack_planes`: uint{w}[..., W] -> uint8[..., length] of 0/1.

    Raises:
        EncodingError: the words hold fewer than `length` bits.
    """
    held = words.shape[-1] * words.dtype.itemsize * 8
    if held < length:
        raise EncodingError(f"packed planes: found {held} bits per plane, expected at least {length}")
    as_bytes = np.ascontiguousarray(words.astype(words.dtype.newbyteorder("<"))).view(np.uint8)
    return np.unpackbits(as_bytes, axis=-1, count=length, bitorder="little")
