"""TensorRT as a peer, where it is installed: the float twin in float16, and in int8 by ONNX Runtime's quantization.

Networks are strongly typed (TensorRT 10 and later): the types are those of the ONNX file that it gets. In the int8
file, convolutions and products read int8, what stands between them is float32. Torch holds the arrays.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from lqcompile.gpu_bench.peer import Absent, Array, GpuPeer
from lqcompile.gpu_bench.torch_peers import capture, cuda_torch
from lqcompile.peers import quantize_to_int8

FP16, INT8 = "tensorrt-fp16", "tensorrt-int8"

OLDEST = 10


def open_tensorrt(
    name: str, model: onnx.ModelProto, inputs: Mapping[str, Array], calibration: Mapping[str, Array]
) -> GpuPeer:
    """A TensorRT peer.

    Args:
        name: one of the two above.
        model: the float twin.
        inputs: float32[N, ...] to run on, in the order of the model's inputs.
        calibration: likewise, what int8 ranges are taken from.

    Raises:
        Absent: it is not installed, it is too old, or it refuses the network.
    """
    try:
        tensorrt = importlib.import_module("tensorrt")
    except ImportError as error:
        raise Absent("found no tensorrt; pip install tensorrt") from error
    if int(tensorrt.__version__.partition(".")[0]) < OLDEST:
        raise Absent(f"found tensorrt {tensorrt.__version__}, expected {OLDEST} or later; update it")
    torch = cuda_torch()
    half = name == FP16
    file = _in_half(model) if half else _in_int8(model, calibration)
    held = {key: torch.from_numpy(array).cuda() for key, array in _named(file, inputs).items()}
    if half:
        held = {key: array.half() for key, array in held.items()}
    plan = _plan(tensorrt, file, {key: tuple(array.shape) for key, array in held.items()})
    engine = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR)).deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    for key, array in held.items():
        context.set_input_shape(key, tuple(array.shape))
        context.set_tensor_address(key, array.data_ptr())
    outputs = []
    for value in file.graph.output:
        kind = torch.float16 if half else torch.float32
        outputs.append(torch.empty(tuple(context.get_tensor_shape(value.name)), dtype=kind, device="cuda"))
        context.set_tensor_address(value.name, outputs[-1].data_ptr())

    def call() -> list[Any]:
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise Absent(f"tensorrt {tensorrt.__version__} fails as it runs the network")
        return outputs

    run, _ = capture(torch, call)
    types = "float16" if half else "int8 (ONNX Runtime's quantization, symmetric), float32 between layers"
    return GpuPeer(
        name=name,
        what=f"tensorrt {tensorrt.__version__}, {types}, one CUDA graph",
        run=run,
        # The context must live as long as its graph; what makes the outputs holds it.
        outputs=lambda: [array.float().cpu().numpy() for array in call()],
    )


def _plan(tensorrt: Any, file: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    typed = getattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # from 11 on they all are
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(file.SerializeToString()):
        reason = parser.get_error(0).desc() if parser.num_errors else "no reason given"
        raise Absent(f"tensorrt {tensorrt.__version__} does not read the network: {' '.join(reason.split()):.300}")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name, shape in shapes.items():
        profile.set_shape(name, shape, shape, shape)
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Absent(f"tensorrt {tensorrt.__version__} does not build the network")
    return plan


def _named(file: onnx.ModelProto, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return dict(zip((value.name for value in file.graph.input), inputs.values(), strict=True))


def _in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=False)
    return converted


def _in_int8(model: onnx.ModelProto, calibration: Mapping[str, Array]) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory(prefix="lqcompile-") as folder:
        path, output = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, path)
        quantize_to_int8(path, output, _named(model, calibration), symmetric=True)
        return onnx.load(output)
