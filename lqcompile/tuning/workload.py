"""A contraction as MetaSchedule knows it: a small TensorIR function, and decisions about it as annotations.

The function computes the sum of products on plain arrays. It is never compiled: its hash tells workloads apart, its
loops tell how much work there is, and its attributes hold the operator instance, where times of it were measured and
the design spaces. A design space has one decision for the register tile and one for each knob; they are annotations of
the block, from which the builder makes the kernel by lowering.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import tvm
from tvm import te
from tvm.s_tir import Schedule

from lqcompile.errors import TuningError
from lqcompile.lowering.choose import Candidate
from lqcompile.records.apply import write_tile
from lqcompile.records.instance import Instance, canonical
from lqcompile.records.key import Key, read_key
from lqcompile.schedules.space import Space
from lqcompile.target import Target

BLOCK = "contraction"
PREFIX = "lqcompile."
"""Of attributes and annotations."""

ATTRIBUTES = ("instance", "key", "space")

FAMILY, TILE = PREFIX + "family", PREFIX + "tile"


def make_workload(instance: Instance, key: Key, spaces: dict[str, Space]) -> tvm.IRModule:
    """The workload of a contraction."""
    channels, _, _ = instance["input"]
    outputs, height, width = instance["output"]
    (kh, kw), (sy, sx), (dy, dx) = instance["kernel"], instance["strides"], instance["dilations"]
    inside, across = channels // instance["group"], outputs // instance["group"]
    rows, columns = (height - 1) * sy + (kh - 1) * dy + 1, (width - 1) * sx + (kw - 1) * dx + 1
    source = te.placeholder((channels, rows, columns), "uint8", name="source")
    weights = te.placeholder((outputs, inside, kh, kw), "int8", name="weights")
    c, r, s = (te.reduce_axis((0, size), name) for size, name in ((inside, "c"), (kh, "r"), (kw, "s")))

    def product(o: Any, y: Any, x: Any) -> Any:
        channel = o // across * inside + c if instance["group"] > 1 else c
        value = source[channel, y * sy + r * dy, x * sx + s * dx].astype("int32")
        return te.sum(value * weights[o, c, r, s].astype("int32"), axis=[c, r, s])

    result = te.compute((outputs, height, width), product, name=BLOCK)
    function = te.create_prim_func([source, weights, result])
    offered = {
        family: {"tiles": [write_tile(tile) for tile in space.tiles], "knobs": dict(space.knobs)}
        for family, space in spaces.items()
    }
    for name, value in zip(ATTRIBUTES, (instance, key.to_json(), offered), strict=True):
        function = function.with_attr(PREFIX + name, canonical(value))
    return tvm.IRModule({"main": function})


def read_workload(module: tvm.IRModule, source: str) -> tuple[Instance, Key]:
    """The contraction of a workload, and where its times were measured.

    Raises:
        TuningError: it is of another program.
    """
    attributes = module["main"].attrs or {}
    if any(PREFIX + name not in attributes for name in ATTRIBUTES):
        raise TuningError(
            f"records '{source}': found a workload of another program, expected those of 'lqcompile tune'; choose "
            "another folder"
        )
    instance: Instance = json.loads(str(attributes[PREFIX + "instance"]))
    return instance, read_key(json.loads(str(attributes[PREFIX + "key"])), source)


def identity(module: tvm.IRModule) -> tuple[str, ...]:
    """Equal for workloads of one contraction on one machine with the same design spaces."""
    attributes = module["main"].attrs
    return tuple(str(attributes[PREFIX + name]) for name in ATTRIBUTES)


def tvm_target(target: Target) -> tvm.target.Target:
    """What MetaSchedule knows of a target, of a GPU nothing; kernels are compiled by `lqcompile.trials`."""
    attributes = {} if target.on_gpu else target.llvm
    return tvm.target.Target({"kind": "llvm", **attributes, "num-cores": 1})


def design_spaces(spaces: dict[str, Space]) -> Callable[[Schedule], list[Schedule]]:
    """What MetaSchedule's `ScheduleFn` takes: the schedules of all kernel families, undecided."""

    def generate(schedule: Schedule) -> list[Schedule]:
        return [_decide(schedule.copy(), family, space, None) for family, space in spaces.items()]

    return generate


def place(module: tvm.IRModule, spaces: dict[str, Space], candidate: Candidate) -> Schedule | None:
    """The schedule with the decisions of a candidate; None if its design space does not have it."""
    space = spaces.get(candidate.family)
    found = space.place(candidate.tile) if space is not None and candidate.tile is not None else None
    if space is None or found is None:
        return None
    index, values = found
    decisions = [index, *(space.knobs[name].index(values[name]) for name in space.knobs)]
    return _decide(Schedule(module), candidate.family, space, decisions)


def read_candidate(module: tvm.IRModule, spaces: dict[str, Space]) -> Candidate:
    """The candidate that the annotations of a scheduled workload describe."""
    node = module["main"].body
    while getattr(node, "name_hint", None) != BLOCK:
        node = node.block if hasattr(node, "block") else node.body
    family = str(node.annotations[FAMILY])
    space = spaces[family]
    values = {name: int(node.annotations[PREFIX + name]) for name in space.knobs}
    return Candidate(family=family, tile=space.choose(int(node.annotations[TILE]), values))


def _decide(schedule: Schedule, family: str, space: Space, decisions: list[int] | None) -> Schedule:
    """Annotates the block with the family and with one choice for the tile and each knob."""
    block = schedule.get_sblock(BLOCK)
    schedule.annotate(block, FAMILY, family)
    choices = {TILE: tuple(range(len(space.tiles))), **{PREFIX + name: knob for name, knob in space.knobs.items()}}
    for index, (name, values) in enumerate(choices.items()):
        decision = None if decisions is None else decisions[index]
        chosen = schedule.sample_categorical(list(values), [1.0 / len(values)] * len(values), decision)
        schedule.annotate(block, name, chosen)
    return schedule
