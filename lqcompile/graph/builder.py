"""Growing a flow node by node, with aliases for what only changes the shape."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir

from lqcompile.errors import UnsupportedError
from lqcompile.graph.flow import Flow, Kind, Step, fresh
from lqcompile.graph.nodes import sample_shape, unsupported
from lqcompile.graph.plan import Copy, Shape, Value


@dataclass(frozen=True, kw_only=True)
class View:
    """How an ONNX value appears in the flow.

    Args:
        name: of the flow's value.
        stored: its shape there.
        shape: the shape that the ONNX graph gives it; as many elements, in the same order.
    """

    name: str
    stored: Shape
    shape: Shape


class FlowBuilder:
    """Collects the steps of a flow and remembers what each ONNX value became.

    Args:
        graph: whose inputs and outputs the flow has.

    Raises:
        UnsupportedError: an input is neither a vector nor an image per sample.
    """

    def __init__(self, graph: onnx_ir.Graph) -> None:
        self._graph = graph
        for value in graph.inputs:
            if len(sample_shape(value)) not in (1, 3):
                raise UnsupportedError(
                    f"input '{value.name}': found rank {1 + len(sample_shape(value))}, expected [N,C] or [N,C,H,W]; "
                    "reshape it before the model"
                )
        self._inputs = tuple(Value(name=str(value.name), shape=sample_shape(value)) for value in graph.inputs)
        self._steps: list[Step] = []
        self._views = {
            value.name: View(name=value.name, stored=value.shape, shape=value.shape) for value in self._inputs
        }
        self._taken = {str(value.name) for node in graph for value in node.outputs} | set(self._views)

    def view(self, node: onnx_ir.Node, index: int = 0) -> View:
        """What input `index` of a node became.

        Raises:
            UnsupportedError: it is a constant.
        """
        value = node.inputs[index]
        name = str(value.name) if value is not None else ""
        if name not in self._views:
            raise unsupported(
                node, f"the constant input '{name}'", "a computed value", "simplify the model before the export"
            )
        return self._views[name]

    def alias(self, node: onnx_ir.Node, view: View) -> None:
        """Let the first output of `node` stand for `view`, in the shape that the ONNX graph gives it."""
        value = node.outputs[0]
        self._views[str(value.name)] = View(name=view.name, stored=view.stored, shape=sample_shape(value))

    def emit(
        self, node: onnx_ir.Node, kind: Kind, inputs: tuple[View, ...], shape: Shape, part: str | None = None
    ) -> View:
        """Append a step.

        Args:
            node: that it comes from.
            kind: what it computes.
            inputs: what it reads.
            shape: of its result, as stored.
            part: None where the result is the node's output; else what to call this part of the node.
        """
        output = node.outputs[0]
        name = str(output.name)
        if part is not None:
            name = fresh(f"{name}.{part}", self._taken)
            self._taken.add(name)
        self._steps.append(
            Step(
                name=str(node.name or output.name),
                op_type=node.op_type,
                kind=kind,
                inputs=tuple(view.name for view in inputs),
                output=name,
                shape=shape,
            )
        )
        result = View(name=name, stored=shape, shape=sample_shape(output))
        if part is None:
            self._views[name] = result
        return result

    def finish(self) -> Flow:
        """The flow; a graph input that is a graph output as well gets a step that copies it.

        Raises:
            UnsupportedError: a graph output is a constant.
        """
        outputs = []
        given = {value.name for value in self._inputs}
        for output in self._graph.outputs:
            name = str(output.name)
            if name not in self._views:
                raise UnsupportedError(
                    f"output '{name}': found a constant, expected a computed value; remove the output"
                )
            view = self._views[name]
            source = view.name
            if source in given:
                source = fresh(f"{name}.copy", self._taken)
                self._taken.add(source)
                copy = Step(
                    name=name, op_type="Identity", kind=Copy(), inputs=(view.name,), output=source, shape=view.stored
                )
                self._steps.append(copy)
            outputs.append((name, source, view.shape))
        return Flow(inputs=self._inputs, outputs=tuple(outputs), steps=tuple(self._steps))
