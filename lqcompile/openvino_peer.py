"""OpenVINO as a peer: what a user of an x86 CPU would run instead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.errors import LQCompileError, ModelError

Array = npt.NDArray[np.generic]


class OpenVinoModel:
    """A model on OpenVINO's CPU plug-in, compiled for the shapes of its first call.

    One stream, float32 where the model is float32 (OpenVINO would compute in bfloat16 on CPUs that have it), and no
    pinning: a pinned thread would lose against what else runs on its core.

    Args:
        path: ONNX file.
        threads: threads to run with.

    Raises:
        LQCompileError: OpenVINO is not installed.
        ModelError: OpenVINO does not read the file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        openvino = _openvino()
        self._core = openvino.Core()
        try:
            self._model = self._core.read_model(path)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ModelError(
                f"model '{path}': OpenVINO cannot read it ({reason}); leave it out of --against"
            ) from error
        self._options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled: Any = None
        self._request: Any = None

    def __call__(self, arrays: Sequence[Array]) -> list[Array]:
        """Outputs for arrays in the order of the inputs; all calls have the shapes of the first."""
        if self._request is None:
            self._model.reshape(
                {port: list(array.shape) for port, array in zip(self._model.inputs, arrays, strict=True)}
            )
            self._compiled = self._core.compile_model(self._model, "CPU", self._options)
            self._request = self._compiled.create_infer_request()
        results = self._request.infer(list(arrays), share_inputs=True)
        return [np.asarray(results[port]) for port in self._compiled.outputs]

    def precisions(self) -> dict[str, int]:
        """How many convolutions and matrix products run in which precision, after the first call.

        Example: ``{"u8": 21}`` for an int8 model in which nothing fell back to float32.
        """
        counts: Counter[str] = Counter()
        for node in self._compiled.get_runtime_model().get_ordered_ops():
            facts = node.get_rt_info()
            if facts["layerType"].astype(str) in ("Convolution", "FullyConnected", "MatMul"):
                counts[facts["runtimePrecision"].astype(str)] += 1
        return dict(counts)


def _openvino() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise LQCompileError(
            "peer OpenVINO: found no openvino, expected the benchmark extra; pip install 'lqcompile[bench]'"
        ) from error
    module: ModuleType = openvino
    return module
