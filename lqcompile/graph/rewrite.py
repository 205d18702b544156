"""Rewrites of a flow that leave every result as it is, bit for bit, and all rewrites in order."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

from lqcompile.graph.flow import Flow, Step, fresh
from lqcompile.graph.plan import Affine, AveragePool, Clamp, Concat, HardSwish, Leaky, MaxPool
from lqcompile.graph.specs import Quantizer, UniformQuantizer, same_codes
from lqcompile.graph.split import pool_before_concatenations, split_contractions

LARGEST_SCALE = 1e36
"""Times the steps of 8 bits it is finite in float32."""


def simplify(flow: Flow) -> Flow:
    """All rewrites, in the order in which one helps the next."""
    pooled = pool_before_quantizers(pool_before_concatenations(flow))
    return drop_unused(merge_duplicates(split_contractions(drop_repeated_quantizers(pooled))))


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


def drop_repeated_quantizers(flow: Flow) -> Flow:
    """Quantize to 8 bits once what is quantized twice alike: ``Q(Q(x)) --> Q(x)``.

    Tools put a quantizer on either side of a max-pool or Flatten. With k steps of a scale s, ``k s / s`` rounds to k:
    two roundings of float32 move it by less than half a step.
    """
    made_by: dict[str, Step] = {}
    renamed: dict[str, str] = {}
    steps = []
    for step in flow.steps:
        step = replace(step, inputs=tuple(renamed.get(name, name) for name in step.inputs))
        first = made_by.get(step.inputs[0])
        if first is not None and _repeats(step, first):
            renamed[step.output] = first.output
            continue
        steps.append(step)
        made_by[step.output] = step
    outputs = tuple((name, renamed.get(value, value), shape) for name, value, shape in flow.outputs)
    return replace(flow, steps=tuple(steps), outputs=outputs)


def _repeats(step: Step, first: Step) -> bool:
    """Whether both are the same 8-bit quantizer, whose largest number is finite."""
    if not isinstance(step.kind, UniformQuantizer) or not isinstance(first.kind, UniformQuantizer):
        return False
    return same_codes(step.kind) == same_codes(first.kind) and float(step.kind.scale) < LARGEST_SCALE


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
