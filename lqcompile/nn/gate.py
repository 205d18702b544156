"""The gate of an export: ONNX Runtime loads the file and agrees with torch.

A single code that flips by rounding can avalanche through a deep network, so the outputs alone prove little. The gate
therefore first checks every quantizer exactly on the input that ONNX Runtime itself gave it, and then the outputs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime as ort
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from torch import Tensor, nn

from lqcompile.encoding import encode
from lqcompile.errors import QuantizationError
from lqcompile.graph.schema import DOMAIN, QUANTIZE

FLOAT_TOLERANCE = 1e-4
"""Largest output difference of a network without quantized activations, relative to the largest output: float32
summation order gives 1e-6 to 1e-5."""

FLIP_TOLERANCE = 0.05
"""Mean output difference, relative to the largest output, of a network with quantized activations. Without a flipped
code it is 1e-7 to 1e-6 (measured on nine-layer networks of random weights); the room is for flips, which may reach much
of the output of a deep network."""

_REFUSALS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def check_export(proto: onnx.ModelProto, frozen: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Compare a file with the frozen model it was made from.

    Args:
        proto: the file.
        frozen: result of `lqcompile.nn.frozen.freeze`.
        inputs: as the model takes them.

    Raises:
        QuantizationError: ONNX Runtime refuses the file, a quantizer gives a wrong level, or the outputs differ.
    """
    quantizers = [node for node in proto.graph.node if (node.domain, node.op_type) == (DOMAIN, QUANTIZE)]
    found, observed = _run(proto, quantizers, inputs)
    _check_quantizers(proto, quantizers, observed)
    with torch.no_grad():
        result = frozen(*inputs)
    expected = [tensor.numpy() for tensor in ((result,) if isinstance(result, Tensor) else result)]
    for name, got, want in zip((output.name for output in proto.graph.output), found, expected, strict=True):
        compare_output(name, got, want, has_codes=bool(quantizers))


def compare_output(
    name: str, got: npt.NDArray[np.floating], want: npt.NDArray[np.floating], *, has_codes: bool
) -> None:
    """Compare one output of ONNX Runtime with that of torch.

    Raises:
        QuantizationError: shape or values differ; the message states the difference and the tolerance.
    """
    if got.shape != want.shape:
        raise QuantizationError(
            f"export output {name!r}: found shape {got.shape} in ONNX Runtime, expected {want.shape} as in torch"
        )
    difference = np.abs(got.astype(np.float64) - want)
    measure = difference.mean() if has_codes else difference.max()
    tolerance = FLIP_TOLERANCE if has_codes else FLOAT_TOLERANCE
    relative = float(measure / max(float(np.abs(want).max()), np.finfo(np.float32).tiny))
    if not relative <= tolerance:
        raise QuantizationError(
            f"export output {name!r}: ONNX Runtime differs from torch by {relative:.2g} of the largest value "
            f"({'mean' if has_codes else 'largest'} difference), expected at most {tolerance:g}; report the model"
        )


def _run(
    proto: onnx.ModelProto, quantizers: list[onnx.NodeProto], inputs: tuple[Tensor, ...]
) -> tuple[list[npt.NDArray[np.floating]], dict[str, npt.NDArray[np.float32]]]:
    """Outputs of the model, and the values at the ends of its quantizers by name."""
    probed = onnx.ModelProto()
    probed.CopyFrom(proto)
    names = [output.name for output in proto.graph.output]
    known = {*names, *(value.name for value in proto.graph.input)}
    ends = dict.fromkeys(end for node in quantizers for end in (node.input[0], node.output[0]) if end not in known)
    probed.graph.output.extend(onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None) for end in ends)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    feeds = {value.name: tensor.numpy() for value, tensor in zip(proto.graph.input, inputs, strict=True)}
    try:
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        session = ort.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
        values = session.run([*names, *ends], feeds)
    except _REFUSALS as error:
        raise QuantizationError(
            f"export: ONNX Runtime {ort.__version__} refuses the file ({str(error).strip().splitlines()[0]}); "
            "report the model"
        ) from error
    observed = feeds | dict(zip([*names, *ends], values, strict=True))
    return values[: len(names)], observed


def _check_quantizers(
    proto: onnx.ModelProto, quantizers: list[onnx.NodeProto], observed: dict[str, npt.NDArray[np.float32]]
) -> None:
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in quantizers:
        thresholds, levels = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        want = levels[encode(observed[node.input[0]], thresholds)]
        wrong = int((observed[node.output[0]] != want).sum())
        if wrong:
            raise QuantizationError(
                f"export node {node.name!r} ({DOMAIN}::{QUANTIZE}): found {wrong} of {want.size} wrong levels in "
                "ONNX Runtime, expected none; report the model"
            )
