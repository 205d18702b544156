"""The two references in ONNX Runtime: the integer form, and the file itself with its tensors laid open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from lqcompile.graph.plan import Plan
from lqcompile.integer_form import integer_form

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


REQUANTIZING = ("WeightBiasQuantization",)
"""Optimizers that change what a file computes: this one rounds float biases and weights between DequantizeLinear and
QuantizeLinear to integers (ONNX Runtime 1.31, from basic optimizations on)."""


class Session:
    """An ONNX Runtime session on the CPU.

    Args:
        model: to run.
        level: of graph optimizations: "none", "basic" or "all" (what a user gets).
        without: optimizers that are left out.
    """

    def __init__(self, model: onnx.ModelProto, level: str, without: Sequence[str] = ()) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # Three sessions take turns here with the compiled model: threads that wait must not keep the cores busy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.graph_optimization_level = {
            "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
            "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
            "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
        }[level]
        data = model.SerializeToString()
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(without)
        )
        self.outputs = [output.name for output in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, npt.NDArray[np.float32]]) -> Arrays:
        """Every output by name."""
        return dict(zip(self.outputs, self._session.run(None, dict(feeds)), strict=True))


def integer_session(plan: Plan) -> Session:
    """The integer form with every value and integer as an output."""
    return Session(integer_form(plan, expose=True), "none")


def open_session(model: onnx.ModelProto, names: Iterable[str]) -> Session:
    """The file with further tensors as outputs, where it has them.

    Only basic optimizations are on: they fold the unpacking of weights, and cannot fuse across a tensor that is wanted.
    Those that round constants anew are off: the file is the reference, not what becomes of it.

    Args:
        model: the file.
        names: of tensors.
    """
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    made = {name for node in model.graph.node for name in node.output}
    given = {output.name for output in model.graph.output}
    for name in sorted(set(names) & made - given):
        opened.graph.output.append(onnx.ValueInfoProto(name=name))
    return Session(opened, "basic", REQUANTIZING)


def stock_session(model: onnx.ModelProto) -> Session:
    """The file as it is."""
    return Session(model, "all")
