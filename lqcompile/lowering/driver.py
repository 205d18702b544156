"""From a Relax module to a driver: planned memory and one entry point without a virtual machine.

    main(x): lv = call_tir(k0, (x, c0)); lv1 = call_tir(k1, (lv, c1)); lv1
    -->
    main(x, y, arena, params, first, last): for each sample: k0(x, params + p0, arena + o0); k1(arena + o0, ...)

Kernels become private subroutines on raw pointers. `first` and `last` restrict a call to some of the steps: forced
verification and per-layer timing use the same code as a whole run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lqcompile.lowering.memory import ALIGNMENT, Lifetime, plan_arena
from lqcompile.lowering.program import Program, SumsKernel, Tensor, to_relax

INT32 = tvm.ir.PrimType("int32")


@dataclass(eq=False)
class Parameters:
    """All constants in one block of bytes; equal arrays are stored once."""

    chunks: list[bytes] = field(default_factory=list)
    size: int = 0
    offsets: dict[bytes, int] = field(default_factory=dict)

    def add(self, array: npt.NDArray[Any]) -> int:
        """Offset of the array in bytes."""
        data = np.ascontiguousarray(array).tobytes()
        digest = hashlib.sha256(data).digest()
        if digest not in self.offsets:
            self.offsets[digest] = self.size
            padded = data + bytes(-len(data) % ALIGNMENT)
            self.chunks.append(padded)
            self.size += len(padded)
        return self.offsets[digest]

    def tobytes(self) -> bytes:
        """The block; never empty."""
        return b"".join(self.chunks) or bytes(ALIGNMENT)


@dataclass(frozen=True, kw_only=True, eq=False)
class Driver:
    """What code generation takes, and what the runtime must know.

    Args:
        module: TensorIR, entry points ``run`` and ``sums``.
        parameters: the block of constants.
        arena_bytes: size of the arena.
        offsets: place of each tensor in the arena.
        regions: (name, first step, last step + 1) in order.
    """

    module: tvm.IRModule
    parameters: bytes
    arena_bytes: int
    offsets: dict[str, int]
    regions: tuple[tuple[str, int, int], ...]

    @property
    def entries(self) -> dict[str, Any]:
        """What the manifest's variant gets beside what all have."""
        return {}

    @property
    def suffix(self) -> str:
        """Ending of the name of the compiled code."""
        return "so"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Call:
    function: str
    arguments: tuple[tuple[str, Any], ...]


def make_driver(program: Program, relax_module: tvm.IRModule, keys: dict[str, str]) -> Driver:
    """Lowers the Relax form of `program` (`to_relax`) to a driver."""
    parameters = Parameters()
    calls = _calls(relax_module, keys, parameters)
    step_outputs = [step.outputs for step in program.steps]
    externals = {tensor.key: ("input", index) for index, tensor in enumerate(program.inputs)}
    externals |= {tensor.key: ("output", index) for index, tensor in enumerate(program.outputs)}
    tensors = {tensor.key: tensor for outputs in step_outputs for tensor in outputs if tensor.key not in externals}
    offsets, arena_bytes = plan_arena(_lifetimes(calls, step_outputs, tensors))
    functions: dict[str, Any] = {}
    for call in calls:
        functions[call.function] = _subroutine(relax_module[call.function], call.function)
    sums_names = _shared_names(program.sums)
    sums_constants = []
    for kernel, name in zip(program.sums, sums_names, strict=True):
        if name not in functions:
            functions[name] = _subroutine(kernel.step.function, name)
        sums_constants.append([parameters.add(array) for array in kernel.step.constants])
    handles = {name: tvm.ir.GlobalVar(name) for name in functions}
    module = {handles[name]: function for name, function in functions.items()}
    block = parameters.tobytes()
    run = _run(program, calls, step_outputs, externals, offsets, handles, arena_bytes, len(block))
    module[tvm.ir.GlobalVar("run")] = run
    if program.sums:
        sums = _sums(program.sums, sums_names, sums_constants, offsets, handles, arena_bytes, len(block))
        module[tvm.ir.GlobalVar("sums")] = sums
    return Driver(
        module=tvm.IRModule(module),
        parameters=block,
        arena_bytes=max(arena_bytes, ALIGNMENT),
        offsets=offsets,
        regions=region_spans(program),
    )


def _shared_names(kernels: Sequence[SumsKernel]) -> list[str]:
    """Name of the function of each kernel: equal ones share the first one's, as `relax.BlockBuilder` does."""
    first: dict[Any, str] = {}
    return [first.setdefault(tvm_ffi.StructuralKey(kernel.step.function), kernel.step.name) for kernel in kernels]


def region_spans(program: Program) -> tuple[tuple[str, int, int], ...]:
    """(name, first step, last step + 1) of each region that a program runs, in order."""
    spans: list[tuple[str, int, int]] = []
    for index, step in enumerate(program.steps):
        if spans and spans[-1][0] == step.region:
            spans[-1] = (step.region, spans[-1][1], index + 1)
        else:
            spans.append((step.region, index, index + 1))
    return tuple(spans)


def _calls(module: tvm.IRModule, keys: dict[str, str], parameters: Parameters) -> list[_Call]:
    """The ``call_tir`` bindings of main, arguments as ("tensor", key) or ("param", offset)."""
    main = module["main"]
    calls = []
    for block in main.body.blocks:
        for binding in block.bindings:
            value = binding.value
            if not isinstance(value, tvm.ir.Call) or value.op.name != "relax.call_tir":
                continue
            arguments: list[tuple[str, Any]] = []
            for item in value.args[1].fields:
                if isinstance(item, tvm.ir.Var):
                    arguments.append(("tensor", keys.get(item.name, item.name)))
                else:
                    arguments.append(("param", parameters.add(item.value.numpy())))
            calls.append(_Call(function=value.args[0].name_hint, arguments=tuple(arguments)))
    return calls


def _lifetimes(
    calls: Sequence[_Call], outputs: Sequence[Sequence[Tensor]], tensors: dict[str, Tensor]
) -> list[Lifetime]:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for index, (call, written) in enumerate(zip(calls, outputs, strict=True)):
        for tensor in written:
            first[tensor.key] = last[tensor.key] = index
        for kind, key in call.arguments:
            if kind == "tensor" and key in first:
                last[key] = index
    sizes = {key: tensor.size * np.dtype(tensor.dtype).itemsize for key, tensor in tensors.items()}
    return [Lifetime(key=key, size_bytes=size, first=first[key], last=last[key]) for key, size in sizes.items()]


def _subroutine(function: Any, name: str) -> Any:
    """A PrimFunc on buffers as a private one on raw pointers, returning 0."""
    pointers = []
    statements = []
    for buffer in function.params:
        dtype = buffer.dtype
        pointer = tvm.ir.Var(f"{buffer.name}_data", tvm.ir.PointerType(tvm.ir.PrimType(str(dtype)), "global"))
        pointers.append(pointer)
        statements.append(tirx.DeclBuffer(buffer, data=pointer))
    scope = tirx.AttrStmt(
        tirx.IntImm("int32", 0),
        "compute_scope",
        tvm.ir.StringImm(f"{name}_compute"),
        tirx.SeqStmt([*statements, function.body]),
    )
    body = tirx.SeqStmt([scope, tirx.Return(tirx.IntImm("int32", 0))])
    return tirx.PrimFunc(pointers, body, INT32).with_attr("tirx.noalias", True)


def _memory(name: str, size: Any, dtype: str) -> Any:
    """Declares aligned memory of `size` elements as a parameter of an entry point."""
    return T.match_buffer(T.arg(name, T.handle()), (size,), dtype, align=ALIGNMENT)


def _run(
    program: Program,
    calls: Sequence[_Call],
    outputs: Sequence[Sequence[Tensor]],
    externals: dict[str, tuple[str, int]],
    offsets: dict[str, int],
    handles: dict[str, Any],
    arena_bytes: int,
    parameter_bytes: int,
) -> Any:
    with IRBuilder() as builder, T.prim_func():
        T.func_name("run")
        T.func_attr({"global_symbol": "run", "tirx.noalias": True})
        samples = tvm.ir.Var("samples", tvm.ir.PrimType("int64"))
        buffers = {}
        for kind, group in (("input", program.inputs), ("output", program.outputs)):
            for index, tensor in enumerate(group):
                handle = T.arg(f"{kind}{index}", T.handle())
                buffers[kind, index] = T.match_buffer(handle, (samples, tensor.size), tensor.dtype, align=4)
        arena = _memory("arena", max(arena_bytes, ALIGNMENT), "uint8")
        params = _memory("params", parameter_bytes, "uint8")
        first, last = T.arg("first", T.int32()), T.arg("last", T.int32())
        with T.serial(0, samples) as sample:

            def pointer(kind: str, key: Any) -> Any:
                if kind == "param":
                    return T.address_of(params[key])
                if key in externals:
                    return T.address_of(buffers[externals[key]][sample, 0])
                return T.address_of(arena[offsets[key]])

            for index, (call, written) in enumerate(zip(calls, outputs, strict=True)):
                arguments = [pointer(kind, key) for kind, key in call.arguments]
                arguments += [pointer("tensor", tensor.key) for tensor in written]
                with T.If(tirx.all(first <= index, index < last)), T.Then():
                    T.evaluate(tvm.ir.Call(handles[call.function], arguments, ret_ty=INT32))
    return builder.get()


def _sums(
    kernels: Sequence[SumsKernel],
    names: Sequence[str],
    constants: Sequence[Sequence[int]],
    offsets: dict[str, int],
    handles: dict[str, Any],
    arena_bytes: int,
    parameter_bytes: int,
) -> Any:
    """Entry point ``sums(arena, params, out, index)``: integers first in `out`, the workspace behind them."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("sums")
        T.func_attr({"global_symbol": "sums", "tirx.noalias": True})
        size = tvm.ir.Var("size", tvm.ir.PrimType("int64"))
        arena = _memory("arena", max(arena_bytes, ALIGNMENT), "uint8")
        params = _memory("params", parameter_bytes, "uint8")
        out = _memory("out", size, "int32")
        chosen = T.arg("index", T.int32())
        for index, (kernel, name, arrays) in enumerate(zip(kernels, names, constants, strict=True)):
            arguments = [T.address_of(arena[offsets[key]]) for key in kernel.step.inputs]
            arguments += [T.address_of(params[offset]) for offset in arrays]
            behind = kernel.step.outputs[-1].size
            if len(kernel.step.outputs) == 2:
                arguments.append(T.address_of(out[behind]))
            arguments.append(T.address_of(out[0]))
            with T.If(chosen == index), T.Then():
                T.evaluate(tvm.ir.Call(handles[name], arguments, ret_ty=INT32))
    return builder.get()


def lower_program(program: Program) -> tuple[tvm.IRModule, Driver]:
    """The Relax form of a program and its driver."""
    module, keys = to_relax(program)
    return module, make_driver(program, module, keys)
