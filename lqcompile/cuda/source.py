"""From TensorIR to one CUDA C file; TVM writes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx

from lqcompile.errors import BuildError
from lqcompile.schedules.cuda_warp import SAMPLES
from lqcompile.target import Target

KERNEL_LAUNCH = 2
"""Calling convention of a kernel (tvm::CallingConv::kDeviceKernelLaunch)."""

PRELUDE_END = "#define ushort unsigned short\n#endif\n"
"""What TVM 0.27 writes before the code ends with it; it includes headers that compiling does not need."""

PRELUDE = """typedef unsigned int uint;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define CUDART_INF __longlong_as_double(0x7ff0000000000000LL)
#define CUDART_INF_F __int_as_float(0x7f800000)
"""


def lower_kernels(kernels: Mapping[str, Any]) -> tvm.IRModule:
    """Kernels on buffers as kernels on pointers; the number of samples is their last parameter."""
    return tvm.IRModule({name: _kernel(function, name) for name, function in kernels.items()})


def cuda_source(module: tvm.IRModule, target: Target) -> str:
    """The CUDA C of a module of kernels.

    Raises:
        BuildError: TVM refuses the module.
    """
    # TVM writes the same for PTX as for machine code of that architecture.
    architecture = str(target.llvm["arch"]).replace("compute_", "sm_")
    limits = {"max_threads_per_block": 1024, "thread_warp_size": 32}
    passes = [
        s_tir.transform.RewriteUnsafeSelect(),
        tirx.transform.LowerIntrin(),
    ]
    try:
        machine = tvm.target.Target({"kind": "cuda", "arch": architecture, **limits})
        bind = tirx.transform.Apply(lambda function: function.with_attr("target", machine))
        lowered = tvm.ir.transform.Sequential([bind, *passes])(module)
        text = str(tvm_ffi.get_global_func("target.build.cuda")(lowered, machine).inspect_source("cuda"))
    except (tvm.error.InternalError, ValueError) as error:
        line = str(error).strip().splitlines()[-1]
        raise BuildError(f"target {target.name!r}: TVM cannot compile the network: {line}") from error
    _, found, code = text.partition(PRELUDE_END)
    if not found:
        raise BuildError(f"target {target.name!r}: found CUDA code of another TVM, expected 0.27; install that version")
    return PRELUDE + code


def _kernel(function: Any, name: str) -> Any:
    pointers = []
    statements = []
    for buffer in function.params:
        pointer = tvm.ir.Var(f"{buffer.name}_data", tvm.ir.PointerType(tvm.ir.PrimType(str(buffer.dtype)), "global"))
        pointers.append(pointer)
        statements.append(tirx.DeclBuffer(buffer, data=pointer))
    body = tirx.SeqStmt([*statements, function.body])
    kernel = tirx.PrimFunc([*pointers, SAMPLES], body)
    return kernel.with_attr(
        {
            "calling_conv": KERNEL_LAUNCH,
            "global_symbol": name,
            "tirx.is_global_func": True,
            "tirx.noalias": True,
        }
    )
