"""Contractions over concatenations: one contraction per quantizer, on codes that need no decoding.

    conv(concat(Q1(a), Q2(b), c)) --> conv_c(c) + conv_a(Q1(a)) + conv_b(Q2(b))
    conv(concat(Q(a), Q(b)))      --> conv(concat of codes)

The arithmetic of the sum is part of the plan (`lqcompile.graph.plan`). A grouped convolution is split where each group
reads one quantizer only; its outputs are then joined and not added:

    conv(concat(Q1(a), Q2(b)), group=g) --> concat(conv_a(Q1(a)), conv_b(Q2(b)))
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lqcompile.encoding import pack_planes
from lqcompile.graph.flow import Flow, Kind, Segment, Segments, Step, fresh
from lqcompile.graph.plan import AnyQuantizer, AnyWeights, Concat, Contraction, MaxPool, Shape, is_exact
from lqcompile.graph.specs import FloatWeights, Int8Weights, LowBitWeights, Quantizer, UniformQuantizer, same_codes


def pool_before_concatenations(flow: Flow) -> Flow:
    """Pool what is concatenated: ``maxpool(concat(Q1(a), b)) --> concat(maxpool(Q1(a)), maxpool(b))``.

    Channels do not meet in a max-pool, so the results are equal. Only where something quantized is concatenated.
    """
    graph = _Graph(flow)
    for step in flow.steps:
        leaves = graph.leaves(step.inputs[0]) if isinstance(step.kind, MaxPool) else ()
        if len(leaves) < 2 or all(graph.quantizer(leaf) is None for leaf in leaves):
            graph.append(step)
            continue
        pooled = []
        for leaf in leaves:
            shape = (graph.shapes[leaf][0], *step.shape[1:])
            pooled.append(graph.insert(step, step.kind, (leaf,), f"{step.output}.part", shape))
        graph.append(replace(step, kind=Concat(), inputs=tuple(pooled)))
    return replace(flow, steps=tuple(graph.steps))


def split_contractions(flow: Flow) -> Flow:
    """Let contractions over concatenations of codes read the codes."""
    graph = _Graph(flow)
    for step in flow.steps:
        if isinstance(step.kind, Contraction):
            _contract(graph, step, step.kind)
        else:
            graph.append(step)
    return replace(flow, steps=tuple(graph.steps))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Slice:
    """Input channels of a contraction that are read alike.

    Args:
        quantizer: of the codes; None for float32.
        sources: values that hold the channels, in order.
        channels: their numbers in the whole concatenation, rising.
    """

    quantizer: AnyQuantizer | None
    sources: tuple[str, ...]
    channels: tuple[int, ...]

    @property
    def key(self) -> Hashable:
        """Equal for slices that can be read as one."""
        return None if self.quantizer is None else same_codes(self.quantizer)

    def then(self, other: _Slice) -> _Slice:
        """The channels of both, which have one key."""
        return replace(self, sources=self.sources + other.sources, channels=self.channels + other.channels)


class _Graph:
    """The steps so far, and who makes what."""

    def __init__(self, flow: Flow) -> None:
        self.steps: list[Step] = []
        self.shapes = {value.name: value.shape for value in flow.inputs}
        self._made_by: dict[str, Step] = {}
        self._taken = {step.output for step in flow.steps} | set(self.shapes)

    def append(self, step: Step) -> None:
        self.steps.append(step)
        self.shapes[step.output] = step.shape
        self._made_by[step.output] = step

    def insert(self, step: Step, kind: Kind, inputs: tuple[str, ...], output: str, shape: Shape) -> str:
        """Append a step on behalf of `step`; returns the name of its output, made from `output`."""
        name = fresh(output, self._taken)
        self._taken.add(name)
        self.append(replace(step, kind=kind, inputs=inputs, output=name, shape=shape))
        return name

    def leaves(self, name: str) -> tuple[str, ...]:
        """What `name` is the concatenation of, all the way down; itself if it is none."""
        step = self._made_by.get(name)
        if step is None or not isinstance(step.kind, Concat):
            return (name,)
        return tuple(leaf for source in step.inputs for leaf in self.leaves(source))

    def maker(self, name: str) -> Step:
        """The step that makes a value, which is no graph input."""
        return self._made_by[name]

    def quantizer(self, name: str) -> AnyQuantizer | None:
        """The quantizer that makes a value."""
        step = self._made_by.get(name)
        return step.kind if step is not None and isinstance(step.kind, Quantizer | UniformQuantizer) else None


def _contract(graph: _Graph, step: Step, contraction: Contraction) -> None:
    """Append a contraction, split where that lets it read codes."""
    leaves = _slices(graph, contraction, step.inputs[0])
    groups = _by_quantizer(leaves)
    if isinstance(contraction.weights, FloatWeights) or len(leaves) < 2 or groups[-1].quantizer is None:
        graph.append(step)
    elif len(groups) == 1:
        graph.append(replace(step, inputs=(_joined(graph, step, groups[0]),)))
    elif contraction.geometry.group == 1:
        parts = tuple(Segment(contraction=_over(contraction, g.channels), channels=_ranges(g.channels)) for g in groups)
        inputs = tuple(_joined(graph, step, group) for group in groups)
        graph.append(replace(step, kind=Segments(parts=parts), inputs=inputs))
    else:
        _contract_groups(graph, step, contraction, _runs(leaves))


def _contract_groups(graph: _Graph, step: Step, contraction: Contraction, runs: Sequence[_Slice]) -> None:
    """Append a grouped contraction over runs of channels, split where no group reads two of them."""
    inputs = contraction.in_shape[0] // contraction.geometry.group
    outputs = contraction.out_shape[0] // contraction.geometry.group
    if any(len(run.channels) % inputs for run in runs):
        graph.append(step)
        return
    results = []
    for run in runs:
        count = len(run.channels) // inputs
        first = run.channels[0] // inputs * outputs
        rows = range(first, first + count * outputs)
        part = replace(
            contraction,
            weights=_take(contraction.weights, rows, axis=0),
            geometry=replace(contraction.geometry, group=count),
            in_shape=(len(run.channels), *contraction.in_shape[1:]),
            out_shape=(len(rows), *contraction.out_shape[1:]),
        )
        named = replace(step, name=f"{step.name}[{_ranges(run.channels)}]")
        shape = (len(rows), *step.shape[1:])
        results.append(graph.insert(named, part, (_joined(graph, step, run),), f"{step.output}.part", shape))
    graph.append(replace(step, kind=Concat(), inputs=tuple(results)))


def _slices(graph: _Graph, contraction: Contraction, source: str) -> list[_Slice]:
    """What a contraction reads, leaf by leaf."""
    slices, first = [], 0
    for leaf in graph.leaves(source):
        quantizer = graph.quantizer(leaf)
        end = first + graph.shapes[leaf][0]
        read = quantizer if is_exact(contraction, quantizer) else None
        slices.append(_Slice(quantizer=read, sources=(leaf,), channels=tuple(range(first, end))))
        first = end
    return slices


def _by_quantizer(slices: Iterable[_Slice]) -> list[_Slice]:
    """One slice for each quantizer in the order of their first channels, float32 before all."""
    found: dict[Hashable, _Slice] = {}
    for part in slices:
        found[part.key] = found[part.key].then(part) if part.key in found else part
    return sorted(found.values(), key=lambda part: part.quantizer is not None)


def _runs(slices: Iterable[_Slice]) -> list[_Slice]:
    """Neighbours of one quantizer as one slice."""
    runs: list[_Slice] = []
    for part in slices:
        if runs and runs[-1].key == part.key:
            runs[-1] = runs[-1].then(part)
        else:
            runs.append(part)
    return runs


def _joined(graph: _Graph, step: Step, part: _Slice) -> str:
    """The value that holds the channels of a slice."""
    if len(part.sources) == 1:
        return part.sources[0]
    whole = graph.maker(step.inputs[0])
    codes = part.quantizer is not None
    name = f"{whole.output}.{'codes' if codes else 'floats'}"
    return graph.insert(whole, Concat(of_codes=codes), part.sources, name, (len(part.channels), *whole.shape[1:]))


def _over(contraction: Contraction, channels: Sequence[int]) -> Contraction:
    """The contraction of some of the input channels."""
    weights = _take(contraction.weights, channels, axis=1)
    return replace(contraction, weights=weights, in_shape=(len(channels), *contraction.in_shape[1:]))


def _take(weights: AnyWeights, numbers: Sequence[int], *, axis: int) -> AnyWeights:
    """Low-bit or 8-bit weights of some of the outputs (axis 0) or inputs (axis 1)."""
    if isinstance(weights, FloatWeights):
        raise TypeError("float weights are not split")
    index = np.asarray(numbers)
    if isinstance(weights, Int8Weights):
        scale = weights.scale if axis else weights.scale[index]
        return Int8Weights(values=weights.values.take(index, axis), scale=scale)
    if not axis:
        shape = (len(numbers), *weights.shape[1:])
        rows = {name: getattr(weights, name)[index] for name in ("planes", "basis", "offset", "scale")}
        return LowBitWeights(**rows, integer_basis=weights.integer_basis, shape=shape)
    outputs, _, *kernel = weights.shape
    bits = weights.bits_array().reshape(outputs, weights.bits, *weights.shape[1:]).take(index, 2)
    planes = pack_planes(bits.reshape(outputs, weights.bits, -1)).astype(np.uint8)
    return replace(weights, planes=planes, shape=(outputs, len(numbers), *kernel))


def _ranges(channels: Sequence[int]) -> str:
    """Rising numbers as ranges.

    Example:
        >>> _ranges([0, 1, 2, 6, 7])
        '0:3,6:8'
    """
    held = set(channels)
    starts = [number for number in channels if number - 1 not in held]
    ends = [number + 1 for number in channels if number + 1 not in held]
    return ",".join(f"{start}:{end}" for start, end in zip(starts, ends, strict=True))
