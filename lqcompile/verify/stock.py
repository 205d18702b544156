"""The file itself in ONNX Runtime: its tensors in the plan's terms, and how far rounding may have moved them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir

from lqcompile.graph.flow import Add, Flow, Multiply, Segments, Step
from lqcompile.graph.fuse import DECODED
from lqcompile.graph.nodes import float_parameter
from lqcompile.graph.plan import (
    Affine,
    AveragePool,
    Clamp,
    Concat,
    Contraction,
    Copy,
    HardSwish,
    Leaky,
    MaxPool,
    Plan,
    Region,
    Softmax,
    Value,
)
from lqcompile.graph.specs import Quantizer, UniformQuantizer
from lqcompile.reference.epilogue import apply_stages, as_factor, max_pool
from lqcompile.reference.values import dequantize, held_quantizer, quantize
from lqcompile.verify import rounding
from lqcompile.verify.sessions import Array

Float32 = npt.NDArray[np.float32]


MADE_UP = MaxPool | Concat | Quantizer | UniformQuantizer
"""What rewrites move in front of something or split: the values in between are none of the file's."""


class StockFile:
    """A file in the plan's terms.

    Args:
        plan: of the file.
        flow: the simplified flow that `plan` was fused from; they share their quantizers.
        model: the checked file.
    """

    def __init__(self, plan: Plan, flow: Flow, model: onnx_ir.Model) -> None:
        self.plan = plan
        self.steps = {step.output: step for step in flow.steps}
        self.shapes = {value.name: value.shape for value in flow.inputs}
        self.shapes.update({step.output: step.shape for step in flow.steps})
        self.nodes = {str(value.name): node for node in model.graph for value in node.outputs}

    def source(self, value: Value) -> str:
        """The flow's value that `value` is, or whose levels it holds."""
        if value.decoded:
            for name, step in self.steps.items():
                if step.kind is value.quantizer and value.name.startswith(f"{name}.{DECODED}"):
                    return name
        return value.name

    def end(self, value: Value) -> str:
        """The flow's value in front of the quantizer of `value`; its own if it has none."""
        name = self.source(value)
        return name if value.quantizer is None else self.steps[name].inputs[0]


class StockTensors:
    """What one run of the file computed for some samples.

    Args:
        file: that was run.
        tensors: outputs of its nodes and graph inputs, by name.
    """

    def __init__(self, file: StockFile, tensors: Mapping[str, Array]) -> None:
        self._file = file
        self._tensors = tensors

    def take(self, samples: npt.NDArray[np.intp]) -> StockTensors:
        """The same for some of the samples."""
        return StockTensors(self._file, {name: array[samples] for name, array in self._tensors.items()})

    def has(self, value: Value) -> bool:
        """Whether the file computes `value`, or all that it is put together from; not so parts of a sum."""
        return self._has(self._file.source(value))

    def logical(self, value: Value) -> Array:
        """`value` in its logical encoding; of levels that are equal the first."""
        name = self._file.source(value)
        quantizer = held_quantizer(value)
        if quantizer is None:
            return self.real(name).reshape(-1, *value.shape)
        return self._codes(name, quantizer).reshape(-1, *value.shape)

    def before_quantizer(self, value: Value) -> Float32:
        """What the quantizer of `value` was given; `value` itself if it has none."""
        return self.real(self._file.end(value)).reshape(-1, *value.shape)

    def error(self, regions: Sequence[Region], value: Value) -> npt.NDArray[np.float64]:
        """How far rounding may move `before_quantizer` from exact arithmetic, from what `regions` read of the file."""
        values = self._file.plan.values
        read = [values[name] for region in regions for name in (*region.inputs, *region.residuals)]
        fed = {self._file.source(value) for value in read if self.has(value)}
        error = self._error(self._file.end(value), fed)
        return np.broadcast_to(error, self.real(self._file.end(value)).shape).reshape(-1, *value.shape)

    def real(self, name: str) -> Float32:
        """The real values of the flow's value `name`, stored as the flow does."""
        if name not in self._tensors:
            step = self._file.steps[name]
            if isinstance(step.kind, MaxPool):
                return max_pool(self.real(step.inputs[0]).astype(np.float64), step.kind).astype(np.float32)
            if isinstance(step.kind, Affine):
                affine = apply_stages(self.real(step.inputs[0]).astype(np.float64), (step.kind,), {})
                return affine.astype(np.float32)
            if isinstance(step.kind, Concat):
                return np.concatenate([self.real(source) for source in step.inputs], axis=1)
            if isinstance(step.kind, Quantizer | UniformQuantizer):
                return dequantize(quantize(self.real(step.inputs[0]), step.kind), step.kind)
            raise KeyError(name)
        array = self._tensors[name].reshape(-1, *self._file.shapes[name])
        if array.dtype == np.float32:
            return array
        kind = self._file.steps[name].kind
        if not isinstance(kind, UniformQuantizer):
            raise TypeError(f"{name} is {array.dtype}")
        return dequantize(array, kind)

    def _has(self, name: str) -> bool:
        if name in self._tensors:
            return True
        step = self._file.steps.get(name)
        return step is not None and isinstance(step.kind, MADE_UP) and all(self._has(source) for source in step.inputs)

    def _codes(self, name: str, quantizer: Quantizer | UniformQuantizer) -> Array:
        array = self._tensors[name].reshape(-1, *self._file.shapes[name]) if name in self._tensors else self.real(name)
        return array if array.dtype != np.float32 else codes_of(array, quantizer)

    def _error(self, name: str, fed: set[str]) -> npt.NDArray[np.float64]:
        """The bound for one value, from those of the values it is computed from."""
        step = self._file.steps.get(name)
        if step is None or name in fed:
            while step is not None and isinstance(step.kind, Concat) and step.kind.of_codes:
                step = self._file.steps[step.inputs[0]]
            if step is not None and isinstance(step.kind, Quantizer | UniformQuantizer):
                return rounding.level_error(step.kind, self.real(name))
            return np.zeros(())
        errors = [self._error(source, fed) for source in step.inputs]
        kind = step.kind
        if isinstance(kind, Contraction):
            return self._contraction_error(kind, step.inputs[0], errors[0], 0).reshape(-1, *step.shape)
        if isinstance(kind, Segments):
            # The file sums all products in one; here each part is rounded once more.
            total = _terms(kind) + len(kind.parts)
            parts = [
                self._contraction_error(part.contraction, source, error, total)
                for part, source, error in zip(kind.parts, step.inputs, errors, strict=True)
            ]
            whole: npt.NDArray[np.float64] = np.sum(parts, axis=0)
            return whole.reshape(-1, *step.shape)
        if isinstance(kind, Affine):
            return self._affine_error(step, kind, errors[0])
        if isinstance(kind, MaxPool):
            return rounding.max_pool_error(kind, self.real(step.inputs[0]), errors[0])
        if isinstance(kind, AveragePool):
            return rounding.average_pool_error(kind, self.real(step.inputs[0]), errors[0])
        if isinstance(kind, Leaky):
            return rounding.leaky_error(kind, self.real(name), errors[0])
        if isinstance(kind, HardSwish):
            return rounding.hard_swish_error(kind, self.real(step.inputs[0]), errors[0])
        if isinstance(kind, Multiply):
            first, second = (self.real(source) for source in step.inputs)
            factor = as_factor(second, first.shape)
            spread = np.asarray(errors[1] if not errors[1].ndim else as_factor(errors[1], first.shape), np.float64)
            return rounding.product_error(first, factor.astype(np.float32), (errors[0], spread))
        if isinstance(kind, Add):
            return errors[0] + errors[1] + 3 * rounding.U * np.abs(self.real(name).astype(np.float64))
        if isinstance(kind, Concat):
            parts = [
                error if error.ndim else np.broadcast_to(error, self.real(source).shape)
                for error, source in zip(errors, step.inputs, strict=True)
            ]
            return np.concatenate(parts, axis=1)
        if isinstance(kind, Softmax):
            return np.asarray(2 * errors[0].max() + rounding.SOFTMAX_ERROR)
        if isinstance(kind, Clamp | Copy):
            return errors[0]
        raise TypeError(f"{name}: {type(kind).__name__} stands between two quantizers")

    def _contraction_error(
        self, contraction: Contraction, source: str, error: npt.NDArray[np.float64], extra: int
    ) -> npt.NDArray[np.float64]:
        x = self.real(source).reshape(-1, *contraction.in_shape)
        return rounding.contraction_error(contraction, x, error.reshape(x.shape) if error.ndim else error, extra)

    def _affine_error(self, step: Step, kind: Affine, error: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """An affine map behind a contraction of its own node is the bias, which may start the sum."""
        source = self._file.steps.get(step.inputs[0])
        extra = 0
        if source is not None and step.inputs[0] not in self._tensors:
            extra = self._summed(source)
        magnitude = self._shift_magnitude(step, kind)
        return rounding.affine_error(kind.scale, magnitude, self.real(step.output), error, extra)

    def _summed(self, step: Step) -> int:
        """Roundings of a sum that a bias may be the start of; 0 if `step` is none."""
        if isinstance(step.kind, Contraction | Segments):
            return _terms(step.kind) + 4
        if isinstance(step.kind, Concat):  # of the groups of a grouped convolution
            return max(self._summed(self._file.steps[source]) for source in step.inputs)
        return 0

    def _shift_magnitude(self, step: Step, kind: Affine) -> npt.NDArray[np.float64]:
        """``|beta| + |mean * scale|`` per channel of a batch normalization, else ``|shift|``."""
        node = self._file.nodes.get(step.output)
        if node is None or node.op_type != "BatchNormalization":
            return np.abs(kind.shift)
        beta, mean = (float_parameter(node, index, "parameter").astype(np.float64) for index in (2, 3))
        scale = np.repeat(kind.scale, len(mean) // len(kind.scale))
        parts: npt.NDArray[np.float64] = (np.abs(beta) + np.abs(mean * scale)).reshape(len(kind.scale), -1)
        magnitude: npt.NDArray[np.float64] = parts.max(axis=1)
        return magnitude


def _terms(kind: Contraction | Segments) -> int:
    """Products in each sum."""
    if isinstance(kind, Contraction):
        return rounding.depth(kind)
    return sum(rounding.depth(part.contraction) for part in kind.parts)


def codes_of(levels: Float32, quantizer: Quantizer | UniformQuantizer) -> Array:
    """The codes of float32 levels; of levels that are equal the first."""
    if isinstance(quantizer, Quantizer):
        first = np.searchsorted(quantizer.levels, levels, side="left")
        return first.clip(max=len(quantizer.levels) - 1).astype(np.uint8)
    steps = np.rint(levels / np.float32(quantizer.scale)).astype(np.int32)
    codes: Array = (steps + quantizer.zero_point).astype(quantizer.dtype)
    return codes


def wanted_tensors(flow: Flow) -> list[str]:
    """Names of every tensor that `StockTensors` reads, as far as the file has them."""
    return [step.output for step in flow.steps]
