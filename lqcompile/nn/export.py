"""Export of a trained model to the ONNX file of docs/onnx-contract.md."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.onnx import OnnxExporterError

from lqcompile.errors import QuantizationError
from lqcompile.files import write_atomically
from lqcompile.graph.functions import MIN_IR_VERSION, attach
from lqcompile.nn.frozen import freeze
from lqcompile.nn.gate import check_export
from lqcompile.nn.ops import OPSET, TRANSLATION


def export(model: nn.Module, example: Tensor | Sequence[Tensor], path: str | os.PathLike[str]) -> None:
    """Write `model` as one ONNX file that stock ONNX Runtime runs, with a dynamic batch.

    The model itself is not changed. Quantized layers become plain nodes of the domain ``lqcompile`` with packed bit
    planes, 8-bit layers standard QuantizeLinear and DequantizeLinear. Before anything is written the file is loaded by
    ONNX Runtime and compared with torch on `example`; see `lqcompile.nn.gate`.

    Args:
        model: quantized or float; exported in evaluation mode and float32.
        example: float32 input, or a sequence of inputs, whose first dimension is the batch.
        path: file to write; replaced in one step.

    Raises:
        QuantizationError: a basis is not finite or not snapped although ``basis="int8"``, the exporter cannot trace
            the model, or ONNX Runtime refuses the file or disagrees with torch.
        BuildError: `path` cannot be written.
    """
    inputs = _inputs(example)
    frozen = freeze(model)
    proto = _to_onnx(frozen, inputs)
    check_export(proto, frozen, inputs)
    write_atomically(Path(path), proto.SerializeToString())


def to_onnx(model: nn.Module, example: Tensor | Sequence[Tensor]) -> onnx.ModelProto:
    """The file that `export` writes, before it is compared with torch; arguments as there.

    Raises:
        QuantizationError: a basis is not finite or not snapped although ``basis="int8"``, or the exporter cannot trace
            the model.
    """
    return _to_onnx(freeze(model), _inputs(example))


def _inputs(example: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(_with_batch(tensor) for tensor in ((example,) if isinstance(example, Tensor) else example))


def _with_batch(tensor: Tensor) -> Tensor:
    """A batch of 1 would be taken for a constant by `torch.export`."""
    if tensor.ndim == 0 or len(tensor) == 0:
        raise QuantizationError(f"export example: found shape {list(tensor.shape)}, expected a batch of at least one")
    tensor = tensor.detach().cpu()
    return torch.cat([tensor, tensor]) if len(tensor) == 1 else tensor


def _to_onnx(frozen: nn.Module, inputs: tuple[Tensor, ...]) -> onnx.ModelProto:
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in inputs)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                frozen,
                inputs,
                dynamo=True,
                dynamic_shapes=shapes,
                opset_version=OPSET,
                custom_translation_table=TRANSLATION,
                external_data=False,
                verbose=False,
            )
    except OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise QuantizationError(
            f"model {type(frozen).__name__}: torch cannot export it with a dynamic batch ({reason}); "
            "make its forward pass traceable by torch.export"
        ) from error
    if program is None:
        raise QuantizationError(f"model {type(frozen).__name__}: torch.onnx.export returned no program")
    proto = program.model_proto
    _strip(proto)
    proto.ir_version = MIN_IR_VERSION
    attach(proto)
    return proto


def _strip(proto: onnx.ModelProto) -> None:
    """Drop the stack traces and scopes of the exporter: they name files of this machine and outweigh small models."""
    graph = proto.graph
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
    graph.ClearField("value_info")
    for holder in (proto, graph):
        holder.ClearField("metadata_props")
        holder.ClearField("doc_string")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints progress and logs what does not concern the caller; its errors still come as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
