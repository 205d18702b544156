"""Comparing what a compiled region gives with what a reference gives for the same input."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lqcompile.errors import VerificationError
from lqcompile.graph.plan import AnyQuantizer, Region, Value
from lqcompile.graph.specs import Quantizer
from lqcompile.reference.values import dequantize, held_quantizer
from lqcompile.verify import rounding
from lqcompile.verify.report import Tally
from lqcompile.verify.sessions import Array
from lqcompile.verify.stock import codes_of

Bounds = tuple[npt.NDArray[np.floating], npt.NDArray[np.float64]]

Bound = Callable[[npt.NDArray[np.intp]], Bounds]
"""From the numbers of samples, for these: the value before the quantizer, and how far rounding may move it."""


def check_form(region: Region, value: Value, found: Array, expected: Array) -> None:
    """Dtype and shape must be those of the reference.

    Raises:
        VerificationError: they are not.
    """
    if found.dtype != expected.dtype or found.shape != expected.shape:
        raise VerificationError(
            f"region '{region.name}' ({region.op_type}): found {found.dtype}{list(found.shape)} for '{value.name}', "
            f"expected {expected.dtype}{list(expected.shape)}; build the artifact again"
        )


def compare_bits(value: Value, found: Array, expected: Array) -> Tally:
    """Count elements that are not equal; 0 and -0 are, so are two NaN, and so are codes of levels that tie."""
    if value.holds_codes and isinstance(value.quantizer, Quantizer):
        expected = _nearest_tie(found, expected, value.quantizer)
    differ = int((~_same(found, expected)).sum())
    if value.quantizer is None:
        return Tally(floats=found.size, float_mismatches=differ)
    return Tally(codes=found.size, mismatches=differ)


def compare_within(value: Value, found: Array, expected: Array, bound: Bound) -> Tally:
    """Count elements that differ by more than rounding.

    A code may differ where every threshold in between is within the bound of the value before the quantizer. The bound
    is asked for only for samples in which something differs.
    """
    quantizer = value.quantizer
    if quantizer is not None:
        found, expected = (_codes(array, value) for array in (found, expected))
        if isinstance(quantizer, Quantizer):
            expected = _nearest_tie(found, expected, quantizer)
    differ = ~_same(found, expected)
    samples = np.flatnonzero(differ.reshape(len(differ), -1).any(axis=1))
    beyond = 0
    if len(samples):
        at = differ[samples]
        x, limit = (array[at].astype(np.float64) for array in bound(samples))
        if quantizer is None:
            distance = np.abs(found[samples][at].astype(np.float64) - expected[samples][at])
        else:
            distance = rounding.crossing_distance(x, found[samples][at], expected[samples][at], quantizer)
        beyond = int((~(distance <= limit)).sum())
    if quantizer is None:
        return Tally(floats=found.size, float_mismatches=beyond)
    return Tally(codes=found.size, mismatches=beyond, near_threshold=int(differ.sum()) - beyond)


def _same(found: Array, expected: Array) -> npt.NDArray[np.bool_]:
    equal: npt.NDArray[np.bool_] = found == expected
    if found.dtype == np.float32:
        equal |= np.isnan(found) & np.isnan(expected)
    return equal


def _codes(array: Array, value: Value) -> Array:
    """Codes of a value that holds codes or levels."""
    quantizer: AnyQuantizer | None = value.quantizer
    if quantizer is None or held_quantizer(value) is not None:
        return array
    return codes_of(array, quantizer)


def _nearest_tie(found: Array, expected: Array, quantizer: Quantizer) -> Array:
    """Of the codes whose level equals that of `expected`, the one next to `found`."""
    levels = dequantize(expected, quantizer)
    first = np.searchsorted(quantizer.levels, levels, side="left")
    last = np.searchsorted(quantizer.levels, levels, side="right") - 1
    return np.clip(found, first, last).astype(np.uint8)
