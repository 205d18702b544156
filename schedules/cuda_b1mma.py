"""Pairs of bit planes on binary tensor cores: ``mma.m16n8k256``, AND and population count."""

from __future__ import annotations

from dataclasses import dataclass

from .cuda_tensor import TensorWords


@dataclass(frozen=True, kw_only=True)
class B1Mma(TensorWords):
    """AND and population count of 16 x 8 x 256 bits an instruction."""

    weight_dtype: str = "uint32"
    instruction: str = "lq_b1mma"
