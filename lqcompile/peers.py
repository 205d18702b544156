"""What a user would run instead: the float twin in ONNX Runtime or OpenVINO, in float32 and quantized to int8.

Both int8 peers run the same file, which ONNX Runtime's static quantization makes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from lqcompile.errors import InputError, ModelError
from lqcompile.openvino_peer import OpenVinoModel

FP32, INT8 = "onnxruntime-fp32", "onnxruntime-int8"
OPENVINO_FP32, OPENVINO_INT8 = "openvino-fp32", "openvino-int8"

PEERS = (FP32, INT8)
"""Peers that lqcompile installs with."""

ALL_PEERS = (*PEERS, OPENVINO_FP32, OPENVINO_INT8)
"""What ``bench --against`` takes."""

_CALIBRATION_SAMPLES = 256

# What InferenceSession raises; they have no common base but Exception.
_LOAD_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)

Arrays = Mapping[str, npt.NDArray[np.generic]]


Call = Callable[[Sequence[npt.NDArray[np.generic]]], list[npt.NDArray[np.generic]]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Peer:
    """A network ready to run.

    Args:
        name: one of `ALL_PEERS`.
        call: gives the outputs for arrays in the order of the inputs.
        model_bytes: size of the ONNX file that was loaded.
    """

    name: str
    call: Call
    model_bytes: int

    def run(self, arrays: Arrays) -> list[npt.NDArray[np.generic]]:
        """Outputs for arrays that are given in the order of the inputs, whatever their names."""
        return self.call(list(arrays.values()))


def parse_peers(text: str, known: Sequence[str] = ALL_PEERS) -> tuple[str, ...]:
    """Names from ``a,b``; ``none`` or nothing is no peer.

    Args:
        text: what the user wrote.
        known: names that there are.

    Raises:
        InputError: a name is unknown.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip() and name.strip() != "none")
    for name in names:
        if name not in known:
            raise InputError(f"peer '{name}': unknown; known peers: {', '.join(known)}")
    return names


def open_peer(name: str, float_model: Path, folder: Path, calibration: Arrays, threads: int) -> Peer:
    """Load a peer.

    Args:
        name: one of `ALL_PEERS`.
        float_model: ONNX file of the float network.
        folder: where files may be made.
        calibration: input arrays[N, ...] that int8 ranges are taken from, in the order of the inputs.
        threads: threads to run with.

    Raises:
        ModelError: the peer does not take the float model, or its inputs are others.
        LQCompileError: the peer is not installed.
    """
    session = _open(float_model, threads)
    inputs = [value.name for value in session.get_inputs()]
    if len(inputs) != len(calibration):
        raise ModelError(
            f"float model '{float_model}': found {len(inputs)} inputs, expected {len(calibration)} as in the compiled "
            "model"
        )
    path = float_model
    if name in (INT8, OPENVINO_INT8):
        path = folder / "int8.onnx"
        if not path.exists():
            quantize_to_int8(float_model, path, dict(zip(inputs, calibration.values(), strict=True)))
    if name in (OPENVINO_FP32, OPENVINO_INT8):
        return Peer(name=name, call=OpenVinoModel(path, threads), model_bytes=path.stat().st_size)
    session = session if path == float_model else _open(path, threads)

    def call(arrays: Sequence[npt.NDArray[np.generic]]) -> list[npt.NDArray[np.generic]]:
        outputs: list[npt.NDArray[np.generic]] = session.run(None, dict(zip(inputs, arrays, strict=True)))
        return outputs

    return Peer(name=name, call=call, model_bytes=path.stat().st_size)


def quantize_to_int8(float_model: Path, output: Path, calibration: Arrays, *, symmetric: bool = False) -> None:
    """Post-training quantization by ONNX Runtime: QDQ, uint8 activations, int8 weights per channel, min-max ranges.

    The float model first goes through ONNX Runtime's own preparation (shape inference, batch normalization folded into
    convolutions), as its documentation asks for.

    Args:
        float_model: ONNX file.
        output: file to write; prepared files are put beside it.
        calibration: input name to array[N, ...]; the first 256 samples are used.
        symmetric: int8 activations around 0 instead, the only ones that TensorRT takes.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = output.with_suffix(".prepared.onnx")
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it warns on every model that was not prepared by its command line tool
    try:
        quant_pre_process(str(float_model), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(output),
            _Reader(calibration),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8 if symmetric else quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            per_channel=True,
            extra_options={"ActivationSymmetric": symmetric},
        )
    finally:
        quiet.setLevel(level)


class _Reader:
    """Feeds the calibration samples in small batches, as onnxruntime.quantization wants them."""

    def __init__(self, arrays: Arrays) -> None:
        self._batches = self._split(arrays)

    def get_next(self) -> dict[str, npt.NDArray[np.generic]] | None:
        return next(self._batches, None)

    @staticmethod
    def _split(arrays: Arrays) -> Iterator[dict[str, npt.NDArray[np.generic]]]:
        count = min(_CALIBRATION_SAMPLES, *(len(array) for array in arrays.values()))
        for start in range(0, count, 32):
            yield {name: array[start : min(start + 32, count)] for name, array in arrays.items()}


def _open(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that spin after a run would take the cores from whatever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        onnx.checker.check_model(str(path))
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (onnx.checker.ValidationError, OSError, *_LOAD_ERRORS) as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"float model '{path}': found {reason}, expected a model that ONNX Runtime loads") from error
