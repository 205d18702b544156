"""What the codes of a quantizer stand for, whatever the method that trained it: the form that is exported."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lqcompile.encoding import MAX_BITS
from lqcompile.errors import QuantizationError


class Coding(NamedTuple):
    """Rows of ``level = offset + scale * sum_j basis[j] * bit_j``; bits are -1/+1 for weights, 0/1 for activations."""

    basis: Tensor
    """float32[C, K]; integers when `integer`"""
    scale: Tensor
    """float32[C]; ones unless `integer`"""
    offset: Tensor
    """float32[C]; zeros when `integer`"""
    integer: bool
    """an integer basis, as docs/onnx-contract.md defines it"""

    def is_finite(self) -> bool:
        """Whether training left no NaN or infinity."""
        return all(bool(torch.isfinite(part).all()) for part in (self.basis, self.scale, self.offset))


def check_bits(name: str, bits: int) -> None:
    """Refuse bits outside 1..4.

    Raises:
        QuantizationError: naming the argument.
    """
    if not 1 <= bits <= MAX_BITS:
        raise QuantizationError(
            f"{name}: found {bits}, expected 1 to {MAX_BITS}; leave the layer in float with skip, "
            "or its activations with act_bits=None"
        )


def round_significand(values: Tensor) -> Tensor:
    """Round to 16 significant bits, so that the value times an 8-bit integer is exact in float32."""
    mantissa, exponent = torch.frexp(values.double())
    return torch.ldexp(torch.round(mantissa * 65536), exponent - 16).float()
