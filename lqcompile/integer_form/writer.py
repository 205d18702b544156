"""Writing ONNX graphs node by node."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from lqcompile.graph.plan import Shape

OPSET = 21
"""Operator set of the graphs that lqcompile writes for its own use."""

IR_VERSION = 10
"""The oldest ONNX IR that carries `OPSET`."""


class GraphWriter:
    """Collects nodes and initializers; tensor names are made up here, except for those given by the caller."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def node(self, op_type: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        """Add a node with one output, called `name` if given; returns the name of the output."""
        output = name or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(op_type, inputs, [output], **attributes))
        return output

    def constant(self, array: npt.ArrayLike) -> str:
        """Add an initializer of the dtype of `array`; returns its name."""
        name = f"c{len(self._initializers)}"
        self._initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def reshape(self, tensor: str, shape: Shape) -> str:
        """Give each sample the shape `shape`."""
        return self.node("Reshape", tensor, self.constant(np.array([-1, *shape], dtype=np.int64)))

    def cast(self, tensor: str, dtype: npt.DTypeLike) -> str:
        """Convert to a NumPy dtype."""
        return self.node("Cast", tensor, to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def input(self, name: str, shape: Shape) -> None:
        """Declare a float32 graph input of any batch size."""
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]))

    def output(self, name: str, dtype: npt.DTypeLike, shape: Shape) -> None:
        """Declare a graph output of any batch size; a node must have made it."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._outputs.append(helper.make_tensor_value_info(name, kind, ["N", *shape]))

    def model(self, name: str) -> onnx.ModelProto:
        """The model of everything added so far."""
        graph = helper.make_graph(self._nodes, name, self._inputs, self._outputs, self._initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
