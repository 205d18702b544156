"""From the checked graph to the fusion plan: which steps run as one kernel, and what each kernel leaves behind.

A region starts at a step that nothing before it could take in. It takes in what follows while there is exactly one
reader: that is its stream. An addition joins the region of the operand that is made last. From the stream on, maps
of each reader (affine ones, clamps) become part of an output, with the quantizers at their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx_ir

from lqcompile.graph.flow import Add, Flow, Multiply, Segments, Step, consumers, fresh
from lqcompile.graph.plan import (
    AddValue,
    Affine,
    AnyQuantizer,
    Clamp,
    Concat,
    Contraction,
    Copy,
    Joining,
    Map,
    MaxPool,
    MultiplyValue,
    Operation,
    Output,
    Plan,
    Region,
    Stage,
    Value,
    fold_affine,
    is_exact,
    is_monotone,
)
from lqcompile.graph.rewrite import simplify
from lqcompile.graph.specs import Quantizer, UniformQuantizer
from lqcompile.graph.translate import to_flow

DECODED = "decoded"
"""Suffix of a value that holds the float32 levels of a quantizer whose codes have the plain name."""


def make_plan(model: onnx_ir.Model) -> Plan:
    """Plan of a checked model.

    Values keep the names that they have in the file. Where both codes and levels of a quantizer are wanted, or only its
    levels, the levels are called like the codes with ``.decoded`` behind.

    Args:
        model: from `lqcompile.graph.check.load_checked`.

    Raises:
        UnsupportedError: the graph is valid, but the plan cannot express it; the message names the node.
    """
    return fuse(simplify(to_flow(model)))


def fuse(flow: Flow) -> Plan:
    """Group the steps of a flow into regions."""
    fuser = _Fuser(flow)
    for step in flow.steps:
        fuser.visit(step)
    outputs = tuple((name, fuser.real_name(value), shape) for name, value, shape in flow.outputs)
    return Plan(inputs=flow.inputs, outputs=outputs, regions=tuple(fuser.regions), values=fuser.values)


def fold_stages(stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Join neighbouring affine maps and neighbouring clamps, and drop affine maps that change nothing.

    Joining affine maps leaves out a rounding in float64; the others change nothing.
    """
    folded: list[Stage] = []
    for stage in fold_affine(stages):
        last = folded[-1] if folded else None
        if isinstance(stage, Affine) and (stage.scale == 1).all() and not stage.shift.any():
            continue
        if isinstance(stage, Clamp) and isinstance(last, Clamp):
            low, high = (min(max(bound, stage.low), stage.high) for bound in (last.low, last.high))
            folded[-1] = Clamp(low=low, high=high)
        else:
            folded.append(stage)
    return tuple(folded)


class _Fuser:
    """The regions made so far, and the steps that are part of one."""

    def __init__(self, flow: Flow) -> None:
        self.regions: list[Region] = []
        self.values = {value.name: value for value in flow.inputs}
        self._readers = consumers(flow.steps)
        self._wanted = {value for _, value, _ in flow.outputs}
        self._made_by = {step.output: step for step in flow.steps}
        self._shapes = {value.name: value.shape for value in flow.inputs} | {s.output: s.shape for s in flow.steps}
        self._decoded: dict[str, str] = {}
        self._done: set[str] = set()
        self._names: set[str] = set()
        for step in flow.steps:
            if isinstance(step.kind, Quantizer | UniformQuantizer):
                taken = self._shapes.keys() | set(self._decoded.values())
                self._decoded[step.output] = fresh(f"{step.output}.{DECODED}", taken)

    def visit(self, step: Step) -> None:
        """Start a region at `step`, unless one has taken it in."""
        if step.output in self._done:
            return
        operation: Operation = Copy()
        inputs = [self.real_name(name) for name in step.inputs]
        stages: list[Stage] = []
        stream = step.output
        if isinstance(step.kind, Quantizer | UniformQuantizer):
            stream = step.inputs[0]
            outputs = self._quantized(stream, ())
        elif isinstance(step.kind, Concat) and step.kind.of_codes:
            operation, inputs = step.kind, list(step.inputs)
            outputs = [Output(value=Value(name=stream, shape=step.shape, quantizer=self._quantizer(stream)))]
        else:
            self._done.add(step.output)
            if isinstance(step.kind, Add):
                stages = [AddValue(name=inputs.pop())]
            elif isinstance(step.kind, Multiply):
                stages = [MultiplyValue(name=inputs.pop())]
            elif isinstance(step.kind, Segments):
                operation, inputs, stages = self._segments(step, step.kind)
            elif isinstance(step.kind, Map | MaxPool):
                stages = [step.kind]
            else:
                operation = step.kind
                inputs = [name if self._reads_codes(step, name) else self.real_name(name) for name in step.inputs]
            stream = self._extend(stream, operation, stages)
            outputs = self._outputs(stream)
        label = f"{step.name}[{step.kind.parts[-1].channels}]" if isinstance(step.kind, Segments) else step.name
        self._append(
            Region(
                name=label,
                op_type=step.op_type,
                inputs=tuple(inputs),
                operation=operation,
                stages=fold_stages(stages),
                stream_shape=self._shapes[stream],
                outputs=tuple(outputs),
            )
        )

    def _append(self, region: Region) -> None:
        """Add a region, under the first name that is free."""
        name = fresh(region.name, self._names)
        self._names.add(name)
        self.regions.append(replace(region, name=name))
        self.values |= {output.value.name: output.value for output in region.outputs}

    def _segments(self, step: Step, kind: Segments) -> tuple[Operation, list[str], list[Stage]]:
        """Regions for all parts of a contraction but the last: operation, inputs and first stages of that one."""
        stages: list[Stage] = []
        for part, source in zip(kind.parts, step.inputs, strict=True):
            exact = is_exact(part.contraction, self._quantizer(source))
            inputs = [source if exact else self.real_name(source)]
            if part is kind.parts[-1]:
                break
            partial = Value(name=fresh(f"{step.output}.part", self.values), shape=step.shape)
            self._append(
                Region(
                    name=f"{step.name}[{part.channels}]",
                    op_type=step.op_type,
                    inputs=tuple(inputs),
                    operation=part.contraction,
                    stages=tuple(stages),
                    stream_shape=step.shape,
                    outputs=(Output(value=partial),),
                )
            )
            stages = [AddValue(name=partial.name)]
        return kind.parts[-1].contraction, inputs, stages

    def real_name(self, name: str) -> str:
        """The value that holds `name` in float32."""
        return self._decoded.get(name, name)

    def _reads_codes(self, step: Step, name: str) -> bool:
        """Whether `step` computes on the codes of value `name` and not on float32."""
        quantizer = self._quantizer(name)
        if isinstance(step.kind, Segments):
            parts = zip(step.kind.parts, step.inputs, strict=True)
            return any(source == name and is_exact(part.contraction, quantizer) for part, source in parts)
        if isinstance(step.kind, Concat):
            return step.kind.of_codes
        return isinstance(step.kind, Contraction) and is_exact(step.kind, quantizer)

    def _quantizer(self, name: str) -> AnyQuantizer | None:
        """The quantizer whose codes a value is: it makes them, or they are joined codes of it."""
        step = self._made_by.get(name)
        if step is None:
            return None
        if isinstance(step.kind, Concat) and step.kind.of_codes:
            return self._quantizer(step.inputs[0])
        return step.kind if isinstance(step.kind, Quantizer | UniformQuantizer) else None

    def _extend(self, stream: str, operation: Operation, stages: list[Stage]) -> str:
        """Take in what follows `stream`; appends to `stages` and returns the stream behind the last of them.

        A max-pool joins contractions only, one to each, and nothing is added behind it. All other stages of its chain
        are monotone: it may run before or behind them.
        """
        while stream not in self._wanted and len(self._readers[stream]) == 1:
            (step,) = self._readers[stream]
            joined, pooled = (any(isinstance(stage, kind) for stage in stages) for kind in (Joining, MaxPool))
            if (
                isinstance(step.kind, Clamp)
                or (isinstance(step.kind, Map) and not joined and (not pooled or is_monotone([step.kind])))
                or (
                    isinstance(step.kind, MaxPool)
                    and isinstance(operation, Contraction)
                    and not pooled
                    and is_monotone(stages)
                )
            ):
                stages.append(step.kind)
            elif isinstance(step.kind, Add | Multiply) and not joined and not pooled:
                first, second = step.inputs
                other = self.real_name(second if first == stream else first)
                if other not in self.values or step.shape != self._shapes[stream]:
                    break
                stages.append(AddValue(name=other) if isinstance(step.kind, Add) else MultiplyValue(name=other))
            else:
                break
            self._done.add(step.output)
            stream = step.output
        return stream

    def _outputs(self, stream: str) -> list[Output]:
        """What a region leaves behind: the stream, its quantizers, and what each of its readers makes of it."""
        outputs = self._quantized(stream, ())
        rest = [step for step in self._readers[stream] if step.output not in self._done]
        paths = [step for step in rest if isinstance(step.kind, Map)]
        if stream in self._wanted or len(paths) < len(rest):
            outputs.insert(0, self._float(stream, ()))
        for step in paths:
            stages: list[Stage] = []
            end = self._walk(step, stages)
            found = self._quantized(end, fold_stages(stages))
            if end in self._wanted or any(reader.output not in self._done for reader in self._readers[end]):
                found.insert(0, self._float(end, fold_stages(stages)))
            outputs += found
        return outputs

    def _walk(self, step: Step, stages: list[Stage]) -> str:
        """Follow maps from `step` on; appends them to `stages` and returns where they end."""
        while isinstance(step.kind, Map):
            stages.append(step.kind)
            self._done.add(step.output)
            readers = self._readers[step.output]
            if step.output in self._wanted or len(readers) != 1:
                break
            if not isinstance(readers[0].kind, Map):
                break
            (step,) = readers
        return step.output

    def _quantized(self, name: str, stages: tuple[Stage, ...]) -> list[Output]:
        """Outputs of the quantizers that read value `name`: codes, levels, or both."""
        outputs = []
        for step in self._readers[name]:
            if not isinstance(step.kind, Quantizer | UniformQuantizer):
                continue
            self._done.add(step.output)
            readers = self._readers[step.output]
            codes = [self._reads_codes(reader, step.output) for reader in readers]
            for decoded in (False, True):
                if (not all(codes) or step.output in self._wanted) if decoded else any(codes):
                    value = Value(
                        name=self.real_name(step.output) if decoded else step.output,
                        shape=step.shape,
                        quantizer=step.kind,
                        decoded=decoded,
                    )
                    outputs.append(Output(value=value, stages=stages))
        return outputs

    def _float(self, name: str, stages: tuple[Stage, ...]) -> Output:
        return Output(value=Value(name=name, shape=self._shapes[name]), stages=stages)
