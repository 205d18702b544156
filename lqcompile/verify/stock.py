"""The file itself in ONNX Runtime: its tensors in the plan's terms, and how far rounding may have moved them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir

from lqcompile.graph.flow import Add, Flow, Step
from lqcompile.graph.fuse import DECODED
from lqcompile.graph.nodes import float_parameter
from lqcompile.graph.plan import (
    Affine,
    AveragePool,
    Clamp,
    Concat,
    Contraction,
    Copy,
    MaxPool,
    Plan,
    Region,
    Softmax,
    Value,
)
from lqcompile.graph.specs import Quantizer, UniformQuantizer
from lqcompile.reference.epilogue import max_pool
from lqcompile.reference.values import dequantize, held_quantizer
from lqcompile.verify import rounding
from lqcompile.verify.sessions import Array

Float32 = npt.NDArray[np.float32]


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
        """Whether the file computes `value`; a plan has a few values of its own, such as copies of graph inputs."""
        return self._file.source(value) in self._tensors

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

    def error(self, region: Region, value: Value) -> npt.NDArray[np.float64]:
        """How far rounding may move `before_quantizer` from exact arithmetic, from what `region` reads on."""
        fed = {self._file.source(self._file.plan.values[name]) for name in (*region.inputs, *region.residuals)}
        error = self._error(self._file.end(value), fed)
        return np.broadcast_to(error, self.real(self._file.end(value)).shape).reshape(-1, *value.shape)

    def real(self, name: str) -> Float32:
        """The real values of the flow's value `name`, stored as the flow does."""
        if name not in self._tensors:
            # Only `pool_before_quantizers` makes up a value that something reads: a max-pool in front of a quantizer.
            step = self._file.steps[name]
            if not isinstance(step.kind, MaxPool):
                raise KeyError(name)
            return max_pool(self.real(step.inputs[0]).astype(np.float64), step.kind).astype(np.float32)
        array = self._tensors[name].reshape(-1, *self._file.shapes[name])
        if array.dtype == np.float32:
            return array
        kind = self._file.steps[name].kind
        if not isinstance(kind, UniformQuantizer):
            raise TypeError(f"{name} is {array.dtype}")
        return dequantize(array, kind)

    def _codes(self, name: str, quantizer: Quantizer | UniformQuantizer) -> Array:
        array = self._tensors[name].reshape(-1, *self._file.shapes[name])
        if array.dtype != np.float32:
            return array
        return codes_of(array, quantizer)

    def _error(self, name: str, fed: set[str]) -> npt.NDArray[np.float64]:
        """The bound for one value, from those of the values it is computed from."""
        step = self._file.steps.get(name)
        if step is None or name in fed:
            if step is not None and isinstance(step.kind, Quantizer | UniformQuantizer):
                return rounding.level_error(step.kind, self.real(name))
            return np.zeros(())
        errors = [self._error(source, fed) for source in step.inputs]
        kind = step.kind
        if isinstance(kind, Contraction):
            x = self.real(step.inputs[0]).reshape(-1, *kind.in_shape)
            error = errors[0].reshape(x.shape) if errors[0].ndim else errors[0]
            return rounding.contraction_error(kind, x, error).reshape(-1, *step.shape)
        if isinstance(kind, Affine):
            return self._affine_error(step, kind, errors[0])
        if isinstance(kind, MaxPool):
            return rounding.max_pool_error(kind, self.real(step.inputs[0]), errors[0])
        if isinstance(kind, AveragePool):
            return rounding.average_pool_error(kind, self.real(step.inputs[0]), errors[0])
        if isinstance(kind, Add):
            return errors[0] + errors[1] + 3 * rounding.U * np.abs(self.real(name).astype(np.float64))
        if isinstance(kind, Concat):
            parts = [np.broadcast_to(e, self.real(source).shape) for e, source in zip(errors, step.inputs, strict=True)]
            return np.concatenate(parts, axis=1)
        if isinstance(kind, Softmax):
            return np.asarray(2 * errors[0].max() + rounding.SOFTMAX_ERROR)
        if isinstance(kind, Clamp | Copy):
            return errors[0]
        raise TypeError(f"{name}: {type(kind).__name__} stands between two quantizers")

    def _affine_error(self, step: Step, kind: Affine, error: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """An affine map behind a contraction of its own node is the bias, which may start the sum."""
        source = self._file.steps.get(step.inputs[0])
        extra = 0
        if source is not None and step.inputs[0] not in self._tensors and isinstance(source.kind, Contraction):
            extra = rounding.depth(source.kind) + 4
        magnitude = self._shift_magnitude(step, kind)
        return rounding.affine_error(kind.scale, magnitude, self.real(step.output), error, extra)

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
