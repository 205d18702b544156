"""A lowered network: kernels in order, the tensors between them and their constants, as a Relax module."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax

from lqcompile.lowering.choose import Choice
from lqcompile.schedules.formats import Format
from lqcompile.schedules.problem import Tile
from lqcompile.wording import counted


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A physical tensor: one format of a value, a workspace, or a graph input or output.

    Args:
        key: unique name.
        dtype: element type.
        size: elements of one sample.
        value: name of the plan's value it holds, None for a workspace.
        form: its format, None for a workspace or a graph input or output (contiguous NCHW float32).
    """

    key: str
    dtype: str
    size: int
    value: str | None = None
    form: Format | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Fewer:
    """A kernel that takes the place of a step's own in launches of few samples.

    Args:
        function: PrimFunc of the same parameters.
        samples: the most that it is for.
        tile: its tile.
    """

    function: Any
    samples: int
    tile: Tile

    @property
    def reason(self) -> str:
        """Why there is one, in words for people."""
        split = f", their depth split over {self.tile.split} groups of warps" if self.tile.split > 1 else ""
        return f"up to {counted(self.samples, 'sample')} in smaller tiles{split}, for most of the GPU would be idle"


@dataclass(frozen=True, kw_only=True, eq=False)
class Step:
    """One kernel call: parameters are inputs, then constants, then outputs.

    Args:
        name: of the function.
        region: name of the plan's region it belongs to.
        function: PrimFunc.
        inputs: keys of tensors.
        constants: arrays, flat.
        outputs: what it writes, workspaces first.
        loop: of a contraction, the class of the schedule that has its inner loop; else empty.
        fewer: the kernel for few samples, where there is one.
    """

    name: str
    region: str
    function: Any
    inputs: tuple[str, ...]
    constants: tuple[npt.NDArray[Any], ...]
    outputs: tuple[Tensor, ...]
    loop: str = ""
    fewer: Fewer | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SumsKernel:
    """The kernel that stores a contraction's integers: same main loop, no epilogue.

    Args:
        step: its call; outputs are the workspace (if any) and the sums.
        region: name of the region.
        pairs: (weight basis planes, activation planes); (1, 1) for one integer sum.
        bits: (Kw, Ka): the pairs without offsets.
        shape: (OH, OW, physical channels).
        channels: output channels.
        signs: int32[O] by which to multiply what is stored.
        corrections: int32[O] to subtract from what is stored, before the sign (zero points).
        multipliers: (m_i int64[O, Kw], n_j) to combine pairs into one integer sum, or None.
        single: what is stored is one integer sum T.
    """

    step: Step
    region: str
    pairs: tuple[int, int]
    bits: tuple[int, int]
    shape: tuple[int, int, int]
    channels: int
    signs: npt.NDArray[np.int32]
    corrections: npt.NDArray[np.int32]
    multipliers: tuple[npt.NDArray[np.int64], tuple[int, ...]] | None
    single: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Everything that code generation needs.

    Args:
        inputs: graph inputs.
        outputs: graph outputs.
        steps: kernel calls in order.
        sums: kernels for forced verification.
        choices: kernel family by region name, contractions only.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    steps: tuple[Step, ...]
    sums: tuple[SumsKernel, ...]
    choices: dict[str, Choice]


def to_relax(program: Program) -> tuple[tvm.IRModule, dict[str, str]]:
    """The program as a Relax module of ``call_tir`` on its kernels, and the tensor key of each Relax variable."""
    builder = relax.BlockBuilder()
    variables: dict[str, Any] = {}
    keys: dict[str, str] = {}
    parameters = []
    for tensor in program.inputs:
        variable = relax.Var(tensor.key, relax.TensorType((tensor.size,), tensor.dtype))
        variables[tensor.key] = variable
        parameters.append(variable)
    with builder.function("main", parameters):
        with builder.dataflow():
            for step in program.steps:
                _emit(builder, step, variables, keys)
            results = [builder.emit_output(variables[tensor.key]) for tensor in program.outputs]
        builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
    return builder.get(), keys


def _emit(builder: Any, step: Step, variables: dict[str, Any], keys: dict[str, str]) -> None:
    function = builder.add_func(step.function, step.name)
    arguments = [variables[key] for key in step.inputs] + [
        relax.const(tvm.runtime.tensor(array), str(array.dtype)) for array in step.constants
    ]
    types = [relax.TensorType((tensor.size,), tensor.dtype) for tensor in step.outputs]
    call = relax.call_tir(function, relax.Tuple(arguments), types if len(types) > 1 else types[0])
    result = builder.emit(call, name_hint=step.name)
    keys[result.name] = step.name
    if len(step.outputs) == 1:
        variables[step.outputs[0].key] = result
        keys[result.name] = step.outputs[0].key
        return
    for index, tensor in enumerate(step.outputs):
        item = builder.emit(relax.TupleGetItem(result, index), name_hint=f"{step.name}_{index}")
        variables[tensor.key] = item
        keys[item.name] = tensor.key
