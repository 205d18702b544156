"""From the integers of a contraction to the value that the epilogue takes, in the canonical order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as T

from .epilogue import Epilogue
from .isa import Expr, Isa, constant, fence, load, vector
from .problem import SumRule, basis_dtype

SumOf = Callable[[int, int], Expr]
"""S_ij of weight plane i and activation plane j, an int32 vector."""


def combine(
    isa: Isa, rule: SumRule, epilogue: Epilogue, basis: Any, channels: int, channel: Expr, sum_of: SumOf
) -> Expr:
    """One vector of y: int32 (integer mode) or float64.

    Args:
        isa: instruction set.
        rule: how sums combine.
        epilogue: what takes the value.
        basis: buffer [planes, channels] of m_i (int32) or v_i (float64); unused where `basis_dtype` gives None.
        channels: physical channels, the row length of `basis`.
        channel: first channel of the vector.
        sum_of: the integers.
    """
    double = vector("float64", isa)
    total = None
    if rule.act_integers:
        for i in range(rule.weight_basis):
            inner = None
            for j, multiplier in enumerate(rule.act_integers):
                term = sum_of(i, j)
                term = term if multiplier == 1 else term * constant(multiplier, "int32", isa)
                inner = term if inner is None else inner + term
            if basis_dtype(rule, epilogue):
                inner = inner * load(basis, i * channels + channel, isa)
            total = inner if total is None else total + inner
        total = T.bind(total)
        return total if epilogue.mode == "integer" else T.bind(T.cast(total, double))
    for i in range(rule.weight_basis):
        inner = None
        for j, factor in enumerate(rule.act_basis):
            term = fence(constant(factor, "float64", isa) * T.cast(sum_of(i, j), double), double, isa)
            inner = term if inner is None else inner + term
        if not rule.weighted:
            return T.bind(inner)
        term = fence(load(basis, i * channels + channel, isa) * inner, double, isa)
        total = term if total is None else total + term
    return T.bind(total)
