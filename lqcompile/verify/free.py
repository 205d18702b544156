"""Free-running comparison: samples in, outputs out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from lqcompile.graph.plan import Plan
from lqcompile.verify.compare import compare_bits
from lqcompile.verify.compiled import CompiledModel
from lqcompile.verify.report import Accuracy, FreeReport, LayerReport
from lqcompile.verify.sessions import Array, Arrays


class FreeRun:
    """Counts over the samples that have run so far.

    Args:
        plan: whose first output classifies.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._samples = self._agree = 0
        self._right = {"reference": 0, "compiled": 0}
        self._largest = 0.0
        self._outputs = self._mismatches = 0

    def add(
        self,
        found: Mapping[str, Array],
        stock: Mapping[str, Array],
        chained: Mapping[str, Array],
        labels: npt.NDArray[np.integer] | None,
    ) -> None:
        """Count the outputs of further samples.

        Args:
            found: of the compiled model.
            stock: of the file in ONNX Runtime.
            chained: of the compiled model's layers run one by one, each on the result of the one before.
            labels: classes of the samples.
        """
        first = self._plan.outputs[0][0]
        classes = {side: _classes(outputs[first]) for side, outputs in (("reference", stock), ("compiled", found))}
        self._samples += len(classes["compiled"])
        self._agree += int((classes["reference"] == classes["compiled"]).sum())
        if labels is not None:
            for side, answers in classes.items():
                self._right[side] += int((answers == labels).sum())
        for name, source, _ in self._plan.outputs:
            distance = np.abs(found[name].astype(np.float64) - stock[name])
            self._largest = max(self._largest, float(distance.max(initial=0.0)))
            expected = chained[source].reshape(found[name].shape)
            tally = compare_bits(self._plan.values[source], found[name], expected)
            self._outputs += found[name].size
            self._mismatches += tally.mismatches + tally.float_mismatches

    def report(self, layers: tuple[LayerReport, ...]) -> FreeReport:
        """The counts; `layers` say how far every bit is equal."""
        equal_until = None
        for layer in layers:
            if not layer.bit_equal:
                break
            equal_until = layer.name
        return FreeReport(
            samples=self._samples,
            top1_agreement=self._agree / self._samples,
            max_abs_diff=self._largest,
            bit_equal_until=equal_until,
            outputs=self._outputs,
            output_mismatches=self._mismatches,
        )

    def accuracy(self) -> Accuracy:
        """Part of the samples that each side classifies as labelled."""
        return Accuracy(**{side: count / self._samples for side, count in self._right.items()})


def chain(plan: Plan, compiled: CompiledModel, values: Arrays, equal: set[str]) -> Arrays:
    """Run the layers one by one, each on what the ones before gave.

    A layer that is bit equal to the integer form on the integer form's own tensors need not run again while its inputs
    are those tensors.

    Args:
        plan: of the model.
        compiled: to run.
        values: of the integer form.
        equal: names of the regions that are bit equal for these samples.

    Returns:
        Every value by name.
    """
    chained = dict(values)
    changed: set[str] = set()
    for region in plan.regions:
        reads = (*region.inputs, *region.residuals)
        if region.name in equal and not changed.intersection(reads):
            continue
        outputs = compiled.run_region(region.name, {name: chained[name] for name in reads})
        chained.update(outputs)
        changed.update(outputs)
    return chained


def _classes(outputs: Array) -> npt.NDArray[np.integer]:
    """The class of each sample: its largest output."""
    classes: npt.NDArray[np.integer] = outputs.reshape(len(outputs), -1).argmax(axis=1)
    return classes
