"""Forced comparison: each region is fed with the reference's own tensors, so that no difference can spread."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from lqcompile.errors import VerificationError
from lqcompile.graph.plan import Output, Plan, Region, Value
from lqcompile.integer_form import integers_output, value_output
from lqcompile.verify.compare import Bound, Bounds, check_form, compare_bits, compare_within
from lqcompile.verify.compiled import CompiledModel
from lqcompile.verify.inexact import float_bound, is_exact_region
from lqcompile.verify.report import LayerReport, Tally
from lqcompile.verify.sessions import Array, Arrays
from lqcompile.verify.stock import StockTensors


def start_layers(plan: Plan) -> dict[str, LayerReport]:
    """A report of nothing yet for each region, in order."""
    return {
        region.name: LayerReport(name=region.name, op=region.op_type, exact=is_exact_region(plan, region))
        for region in plan.regions
    }


def plan_values(plan: Plan, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> Arrays:
    """Every value of the plan, from the samples and the outputs of the integer form."""
    return {name: outputs[value_output(name)] if value_output(name) in outputs else feeds[name] for name in plan.values}


def force_integer_form(
    plan: Plan, region: Region, compiled: CompiledModel, values: Arrays, outputs: Mapping[str, Array]
) -> tuple[Tally, bool]:
    """Compare one region with the integer form.

    Args:
        plan: that holds the region.
        region: to compare.
        compiled: to run.
        values: of the integer form.
        outputs: of the integer form, the integers among them.

    Returns:
        The counts, and whether every bit is equal.

    Raises:
        VerificationError: an array has another dtype or shape than it must have.
    """
    feed = _feed(region, values)
    found = compiled.run_region(region.name, feed)
    exact = is_exact_region(plan, region)
    tally, equal = Tally(), True
    if integers_output(region.name) in outputs:
        tally = _compare_integers(region, compiled.run_sums(region.name, feed), outputs[integers_output(region.name)])
    for output in region.outputs:
        value = output.value
        _check_present(region, value.name, found)
        check_form(region, value, found[value.name], values[value.name])
        bits = compare_bits(value, found[value.name], values[value.name])
        equal &= bits.equal
        if exact:
            tally += bits
        else:
            bound = _bound(plan, region, output, feed)
            tally += compare_within(value, found[value.name], values[value.name], bound)
    return tally, equal and tally.integer_mismatches == 0


def force_stock_file(plan: Plan, region: Region, compiled: CompiledModel, stock: StockTensors) -> Tally:
    """Compare one region with the file in ONNX Runtime, whose float32 sums are rounded.

    Raises:
        VerificationError: an array has another dtype or shape than it must have.
    """
    outputs = [output.value for output in region.outputs if stock.has(output.value)]
    if not outputs:
        return Tally()
    behind = _behind(plan, region, stock)
    held: Arrays = {}
    for part in (*behind, region):
        feed = {n: held[n] if n in held else stock.logical(plan.values[n]) for n in (*part.inputs, *part.residuals)}
        found = compiled.run_region(part.name, feed)
        held |= found
    sides = 1 if all(is_exact_region(plan, part) for part in (*behind, region)) else 2
    tally = Tally()
    for value in outputs:
        _check_present(region, value.name, found)
        expected = stock.logical(value)
        check_form(region, value, found[value.name], expected)

        def bound(samples: npt.NDArray[np.intp], value: Value = value) -> Bounds:
            part = stock.take(samples)
            return part.before_quantizer(value), sides * part.error((*behind, region), value)

        tally += compare_within(value, found[value.name], expected, bound)
    return tally


def add_layer(layer: LayerReport, integer_form: Tally, stock_file: Tally, *, bit_equal: bool) -> LayerReport:
    """The report with the counts of further samples."""
    return replace(
        layer,
        integer_form=layer.integer_form + integer_form,
        stock_file=layer.stock_file + stock_file,
        bit_equal=layer.bit_equal and bit_equal,
    )


def _feed(region: Region, values: Mapping[str, Array]) -> Arrays:
    """What a region reads."""
    return {name: values[name] for name in (*region.inputs, *region.residuals)}


def _behind(plan: Plan, region: Region, stock: StockTensors) -> list[Region]:
    """Regions that make what `region` reads and the file does not compute, such as parts of a sum, in order."""
    made_by = {output.value.name: other for other in plan.regions for output in other.outputs}
    behind: list[Region] = []
    for name in (*region.inputs, *region.residuals):
        if not stock.has(plan.values[name]):
            maker = made_by[name]
            behind += [part for part in (*_behind(plan, maker, stock), maker) if part not in behind]
    return behind


def _bound(plan: Plan, region: Region, output: Output, feed: Arrays) -> Bound:
    """The bound of an inexact region, for some of the samples."""

    def bound(samples: npt.NDArray[np.intp]) -> Bounds:
        return float_bound(plan, region, output, {name: array[samples] for name, array in feed.items()})

    return bound


def _compare_integers(region: Region, found: Array, expected: Array) -> Tally:
    if found.shape != expected.shape or not np.issubdtype(found.dtype, np.integer):
        raise VerificationError(
            f"region '{region.name}' ({region.op_type}): found integers {found.dtype}{list(found.shape)}, "
            f"expected int32{list(expected.shape)}; build the artifact again"
        )
    return Tally(integers=expected.size, integer_mismatches=int((found != expected).sum()))


def _check_present(region: Region, name: str, found: Mapping[str, Array]) -> None:
    if name not in found:
        raise VerificationError(
            f"region '{region.name}' ({region.op_type}): found outputs {sorted(found)}, expected '{name}' among them; "
            "build the artifact again"
        )
