"""What `verify` found."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many elements were compared, and how many of them differ.

    Args:
        codes: codes of quantizers.
        mismatches: codes that differ and may not.
        near_threshold: codes that differ where the value before the quantizer is within rounding of a threshold.
        integers: integer sums, T or S_ij.
        integer_mismatches: integer sums that differ.
        floats: float32 elements.
        float_mismatches: float32 elements that differ by more than they may: at all, or by more than rounding.
    """

    codes: int = 0
    mismatches: int = 0
    near_threshold: int = 0
    integers: int = 0
    integer_mismatches: int = 0
    floats: int = 0
    float_mismatches: int = 0

    @property
    def failed(self) -> bool:
        """Whether anything differs that may not."""
        return bool(self.mismatches or self.integer_mismatches or self.float_mismatches)

    @property
    def equal(self) -> bool:
        """Whether nothing differs at all, but for float32 elements within rounding."""
        return not (self.failed or self.near_threshold)

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        total = Counter(asdict(self))
        total.update(asdict(other))
        return Tally(**total)


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One region, fed with the reference's own tensors.

    Args:
        name: of the region.
        op: ONNX operator type.
        exact: every backend computes the same bits; else it has a float contraction or a Softmax.
        integer_form: against the integer form; any difference of an exact layer is a failure.
        stock_file: against the file itself in ONNX Runtime, whose float32 sums are rounded.
        bit_equal: every element is equal to that of the integer form.
    """

    name: str
    op: str
    exact: bool
    integer_form: Tally = field(default_factory=Tally)
    stock_file: Tally = field(default_factory=Tally)
    bit_equal: bool = True

    @property
    def total(self) -> Tally:
        """Against both references."""
        return self.integer_form + self.stock_file

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings and dictionaries."""
        return {
            "name": self.name,
            "op": self.op,
            "exact": self.exact,
            **asdict(self.total),
            "against": {"integer_form": asdict(self.integer_form), "stock_file": asdict(self.stock_file)},
        }


@dataclass(frozen=True, kw_only=True)
class FreeReport:
    """Free-running: samples in, outputs out.

    Args:
        samples: how many.
        top1_agreement: part of the samples to which the compiled model and the file give the same class.
        max_abs_diff: largest difference of an output from that of the file.
        bit_equal_until: name of the last region up to which every bit equals the integer form; None if there is none.
        outputs: output elements that were compared with what the layers, one by one, give.
        output_mismatches: those that differ.
    """

    samples: int
    top1_agreement: float
    max_abs_diff: float
    bit_equal_until: str | None
    outputs: int
    output_mismatches: int


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Part of the labelled samples that are classified right, by the file in ONNX Runtime and by the compiled model."""

    reference: float
    compiled: float


@dataclass(frozen=True, kw_only=True)
class Report:
    """Whether a compiled model equals its reference, and by how much it does not.

    Args:
        reference: what the integers and codes are held against, bit for bit.
        layers: in the order of the plan.
        free: end to end.
        accuracy: where labels are given.
    """

    reference: str
    layers: tuple[LayerReport, ...]
    free: FreeReport
    accuracy: Accuracy | None = None

    @property
    def passed(self) -> bool:
        """Whether nothing differs that may not."""
        return not self.forced.failed and self.free.output_mismatches == 0

    @property
    def forced(self) -> Tally:
        """Every layer, fed with the references' own tensors, together."""
        return sum((layer.total for layer in self.layers), Tally())

    def to_json(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries; the keys are stable."""
        forced = {
            "layers": sum(layer.total.codes + layer.total.integers > 0 for layer in self.layers),
            **asdict(self.forced),
            "per_layer": [layer.to_json() for layer in self.layers],
        }
        report: dict[str, Any] = {
            "passed": self.passed,
            "reference": self.reference,
            "forced": forced,
            "free": asdict(self.free),
        }
        if self.accuracy is not None:
            report["accuracy"] = asdict(self.accuracy)
        return report
