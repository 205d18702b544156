"""Rewrites of a flow that leave every result as it is, bit for bit, and all rewrites in order."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from lqcompile.graph.flow import Flow, Step, fresh
from lqcompile.graph.plan import Affine, AveragePool, Clamp, Concat, HardSwish, Leaky, MaxPool
from lqcompile.graph.specs import Quantizer, UniformQuantizer, same_codes
from lqcompile.graph.split import pool_before_concatenations, split_contractions


def simplify(flow: Flow) -> Flow:
    """All rewrites, in the order in which one helps the next."""
    pooled = pool_before_quantizers(pool_before_concatenations(flow))
    return drop_unused(merge_duplicates(split_contractions(pooled)))


def pool_before_quantizers(flow: Flow) -> Flow:
    """Quantize after max-pool: ``maxpool(Q(x)) --> Q(maxpool(x))``.

    Quantizers are monotone, so the results are equal, and the pool can then join the kernel that makes ``x``. Values
    keep their names; the quantizer in front stays where something else reads it.
    """
    steps: list[Step] = []
    made_by: dict[str, Step] = {}
    taken = {step.output for step in flow.steps} | {value.name for value in flow.inputs}

    def append(step: Step) -> None:
        steps.append(step)
        made_by[step.output] = step

    for step in flow.steps:
        quantizers: list[Step] = []
        source = step.inputs[0]
        while isinstance(step.kind, MaxPool) and source in made_by and _quantizes(made_by[source]):
            quantizers.append(made_by[source])
            source = made_by[source].inputs[0]
        pooled = step
        for quantizer in reversed(quantizers):
            name = fresh(f"{step.output}.pooled", taken)
            taken.add(name)
            append(replace(pooled, inputs=(source,), output=name))
            source, pooled = name, replace(quantizer, shape=step.shape)
        append(replace(pooled, inputs=(source, *step.inputs[1:]), output=step.output))
    return replace(flow, steps=tuple(steps))


def merge_duplicates(flow: Flow) -> Flow:
    """Compute once what is computed twice from the same value, such as ``Q(x), Q(x) --> Q(x)``."""
    kept: dict[Hashable, str] = {}
    renamed: dict[str, str] = {}
    steps = []
    for step in flow.steps:
        inputs = tuple(renamed.get(name, name) for name in step.inputs)
        key = _key(step)
        if key is not None:
            first = kept.setdefault((key, inputs), step.output)
            if first != step.output:
                renamed[step.output] = first
                continue
        steps.append(replace(step, inputs=inputs))
    outputs = tuple((name, renamed.get(value, value), shape) for name, value, shape in flow.outputs)
    return replace(flow, steps=tuple(steps), outputs=outputs)


def drop_unused(flow: Flow) -> Flow:
    """Remove steps that no graph output depends on."""
    live = {value for _, value, _ in flow.outputs}
    kept = []
    for step in reversed(flow.steps):
        if step.output in live:
            live.update(step.inputs)
            kept.append(step)
    return replace(flow, steps=tuple(reversed(kept)))


def _quantizes(step: Step) -> bool:
    return isinstance(step.kind, Quantizer | UniformQuantizer)


def _key(step: Step) -> Hashable | None:
    """What two steps that compute the same have in common; None for those that are never merged."""
    kind = step.kind
    if isinstance(kind, Quantizer | UniformQuantizer):
        return same_codes(kind)
    if isinstance(kind, Affine):
        return (kind.scale.tobytes(), kind.shift.tobytes())
    if isinstance(kind, Leaky):
        return kind.slope.tobytes()
    if isinstance(kind, Clamp | HardSwish | MaxPool | AveragePool | Concat):
        return kind
    return None
