"""ONNX Runtime's CUDA provider as a peer: the float twin in float16, inputs and outputs on the GPU, as a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime

from lqcompile.gpu_bench.peer import Absent, Array, GpuPeer

FP16 = "onnxruntime-cuda-fp16"

PROVIDER = "CUDAExecutionProvider"


def open_onnxruntime(
    name: str,
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    calibration: Mapping[str, Array],  # noqa: ARG001 - as for every peer
) -> GpuPeer:
    """The peer.

    Args:
        name: of it.
        model: the float twin.
        inputs: float32[N, ...] to run on, in the order of the model's inputs.
        calibration: not used.

    Raises:
        Absent: this ONNX Runtime has no CUDA.
    """
    if PROVIDER not in onnxruntime.get_available_providers():
        raise Absent(f"found onnxruntime {onnxruntime.__version__} without CUDA, expected onnxruntime-gpu; install it")
    from onnxruntime.transformers.float16 import convert_float_to_float16

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    half = convert_float_to_float16(model, keep_io_types=False)
    session = onnxruntime.InferenceSession(
        half.SerializeToString(), options, providers=[(PROVIDER, {"enable_cuda_graph": "1"})]
    )
    binding, outputs = _bind(onnxruntime, session, inputs)
    session.run_with_iobinding(binding)  # the first run captures the graph

    def run() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return GpuPeer(
        name=name,
        what=f"onnxruntime {onnxruntime.__version__}, CUDA provider, float16, one CUDA graph",
        run=run,
        outputs=lambda: [value.numpy().astype(np.float32) for value in outputs],
    )


def _bind(runtime: ModuleType, session: Any, inputs: Mapping[str, Array]) -> tuple[Any, list[Any]]:
    """A binding to arrays on the GPU, and those that hold the outputs."""
    binding = session.io_binding()
    for port, array in zip(session.get_inputs(), inputs.values(), strict=True):
        binding.bind_ortvalue_input(
            port.name, runtime.OrtValue.ortvalue_from_numpy(array.astype(np.float16), "cuda", 0)
        )
    count = len(next(iter(inputs.values())))
    outputs = []
    for port in session.get_outputs():
        shape = (count, *port.shape[1:])
        value = runtime.OrtValue.ortvalue_from_shape_and_type(shape, np.float16, "cuda", 0)
        binding.bind_ortvalue_output(port.name, value)
        outputs.append(value)
    return binding, outputs
