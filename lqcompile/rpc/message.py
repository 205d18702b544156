"""Arrays and JSON as one block of bytes: what travels between a host and a board.

A line of JSON, ``{"values": ..., "arrays": [[name, dtype, shape], ...]}``, and the arrays' bytes in that order, in C
order and little endian. NumPy alone is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pack(values: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Put a message together.

    Args:
        values: what JSON can hold.
        arrays: name to array, of numbers.
    """
    blocks = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in arrays.items()}
    listing = [[name, block.dtype.str, list(arrays[name].shape)] for name, block in blocks.items()]
    head = json.dumps({"values": dict(values), "arrays": listing}).encode()
    return b"\n".join([head, b"".join(block.tobytes() for block in blocks.values())])


def unpack(message: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Take a message apart.

    Returns:
        the values, and the arrays by name, each in memory of its own.

    Raises:
        ValueError: the block is not as `pack` made it.
    """
    line, _, data = message.partition(b"\n")
    head = json.loads(line)
    arrays, start = {}, 0
    for name, code, shape in head["arrays"]:
        dtype = np.dtype(code)
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(data, dtype, count, start).reshape(shape).copy()
        start += count * dtype.itemsize
    if start != len(data):
        raise ValueError(f"found {len(data)} bytes of arrays, expected {start}")
    return head["values"], arrays
