"""The graph between ONNX and the plan: one step per thing that the plan knows, aliases and constants gone.

Shapes are those of one sample as stored. A flattened image stays stored as ``(C, H, W)``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from lqcompile.graph.plan import AnyQuantizer, Contraction, Map, MaxPool, Operation, Shape, Value


@dataclass(frozen=True, kw_only=True)
class Add:
    """The sum of two tensors of one shape."""


@dataclass(frozen=True, kw_only=True)
class Multiply:
    """The product of two tensors; the second has the shape of the first, or one number per channel."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Segment:
    """What a contraction makes of some of its input channels.

    Args:
        contraction: with the weights of these channels.
        channels: which, for people: ``0:64`` or ``0:8,24:32``.
    """

    contraction: Contraction
    channels: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Segments:
    """The sum of contractions, one for each input: a contraction over their concatenation.

    Args:
        parts: at least two, in the order in which they are added.
    """

    parts: tuple[Segment, ...]


Kind = Operation | Map | MaxPool | Add | Multiply | Segments | AnyQuantizer


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One computation.

    Args:
        name: of the ONNX node.
        op_type: ONNX operator type.
        kind: what is computed; a quantizer yields codes, and float32 levels to whoever computes on floats.
        inputs: names of values.
        output: name of the value it makes.
        shape: of that value.
    """

    name: str
    op_type: str
    kind: Kind
    inputs: tuple[str, ...]
    output: str
    shape: Shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Flow:
    """A network as steps.

    Args:
        inputs: float32 graph inputs, in order.
        outputs: graph outputs, in order: (name in the file, name of the value, shape in the file).
        steps: in topological order.
    """

    inputs: tuple[Value, ...]
    outputs: tuple[tuple[str, str, Shape], ...]
    steps: tuple[Step, ...]


def consumers(steps: Iterable[Step]) -> dict[str, list[Step]]:
    """Steps that read each value, once for every time they read it."""
    result: dict[str, list[Step]] = defaultdict(list)
    for step in steps:
        for name in step.inputs:
            result[name].append(step)
    return result


def fresh(name: str, taken: Collection[str]) -> str:
    """`name`, or `name` with the first number that makes it differ from all that are `taken`.

    Example:
        >>> fresh("a", {"b"}), fresh("a", {"a", "a.1"})
        ('a', 'a.2')
    """
    if name not in taken:
        return name
    number = 1
    while f"{name}.{number}" in taken:
        number += 1
    return f"{name}.{number}"
