"""Torch as a peer on a GPU: the float twin in float16 and in int8, as it is and through `torch.compile`.

Every one of them is captured as a CUDA graph, as lqcompile's own launches are, with channels last in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lqcompile.gpu_bench.peer import Absent, Array, GpuPeer, Run

FP16, FP16_COMPILED = "torch-fp16", "torch-fp16-compiled"
INT8, INT8_COMPILED = "torch-int8", "torch-int8-compiled"

WARM_UP = 3
"""Runs before a graph is captured: libraries choose their kernels in them."""


def open_torch(
    name: str, model: onnx.ModelProto, inputs: Mapping[str, Array], calibration: Mapping[str, Array]
) -> GpuPeer:
    """A torch peer.

    Args:
        name: one of the four above.
        model: the float twin.
        inputs: float32[N, ...] to run on, in the order of the model's inputs.
        calibration: likewise, what int8 ranges are taken from.

    Raises:
        Absent: there is no torch, or it cannot use a GPU.
        ModelError: the network has an operator without a counterpart in torch.
    """
    torch = cuda_torch()
    from lqcompile.gpu_bench.int8 import to_int8
    from lqcompile.gpu_bench.network import torch_network

    torch.backends.cudnn.benchmark = True  # let cuDNN find its fastest kernels, as a user who cares would
    module: Any = torch_network(model).cuda()
    if name in (INT8, INT8_COMPILED):
        counts = to_int8(module, [torch.from_numpy(array).cuda() for array in calibration.values()])
        what = f"int8 by torch._int_mm (cuBLASLt; im2col) in {counts[0]} layers, float16 in {counts[1]} and between"
    else:
        module, what = module.half(), "float16"
    module = module.to(memory_format=torch.channels_last)
    held = [_laid_out(torch, array) for array in inputs.values()]
    called: Callable[..., Any] = module
    if name in (FP16_COMPILED, INT8_COMPILED):
        called = torch.compile(module)
        what += ", torch.compile"
    run, results = capture(torch, functools.partial(called, *held))
    return GpuPeer(
        name=name,
        what=f"torch {torch.__version__}, {what}, channels last, one CUDA graph",
        run=run,
        outputs=lambda: [result.float().cpu().numpy() for result in results],
    )


def cuda_torch() -> ModuleType:
    """Torch, if it can use a GPU.

    Raises:
        Absent: it is not installed, or it cannot.
    """
    try:
        import torch
    except ImportError as error:
        raise Absent("found no torch, expected a build with CUDA; install one") from error
    if torch.version.cuda is None:
        raise Absent(f"found torch {torch.__version__} without CUDA, expected a build with CUDA; install one")
    if not torch.cuda.is_available():
        raise Absent(
            f"found torch {torch.__version__} for CUDA {torch.version.cuda}, which sees no GPU that it can use; "
            "install one that fits the driver"
        )
    return torch


def capture(torch: Any, call: Callable[[], Sequence[Any]]) -> tuple[Run, Sequence[Any]]:
    """A call as a CUDA graph.

    Args:
        torch: the module.
        call: launches work, and gives its results.

    Returns:
        what runs it and waits for the GPU, and the results that each run overwrites.
    """
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    with torch.inference_mode():
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                call()
        torch.cuda.current_stream().wait_stream(aside)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            results = call()

    def run() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return run, results


def _laid_out(torch: Any, array: npt.NDArray[np.generic]) -> Any:
    held = torch.from_numpy(array).cuda().half()
    return held.to(memory_format=torch.channels_last) if held.ndim == 4 else held
