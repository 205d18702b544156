"""Reading an ONNX file: everything that can be wrong with it before its operators are looked at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx.checker
import onnx.external_data_helper
import onnx.numpy_helper
import onnx.shape_inference
import onnx_ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from lqcompile.errors import ModelError
from lqcompile.graph import schema
from lqcompile.graph.folding import fold_quantized_constants

MIN_OPSET = 13
MAX_OPSET = 26
"""Newest standard opset that ONNX Runtime 1.31 runs; the reference must run what we compile."""

MIN_IR_VERSION = 4
MAX_IR_VERSION = 13
"""Newest IR that ONNX Runtime 1.31 reads."""

_INVALID = (
    onnx.checker.ValidationError,
    onnx.shape_inference.InferenceError,
    onnx_ir.serde.SerdeError,
    ValueError,
)
"""What onnx and onnx_ir raise for a graph that is not valid; the last one for unknown types and names not in UTF-8."""

AGAIN = "export the model again"


def load(path: str | os.PathLike[str]) -> onnx_ir.Model:
    """Read a model with the type and shape of every value; external data is read into memory.

    Args:
        path: an ONNX file in binary form.

    Raises:
        ModelError: the file cannot be read, is no ONNX model, is damaged, refers to data that is missing or outside its
            folder, needs a newer version of something, or is not a valid graph.
    """
    return prepare(parse(path), subject=str(path))


def parse(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Read the bytes of a model and its external data.

    Raises:
        ModelError: as `load`, but for what concerns versions and the graph.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as e:
        raise ModelError(f"{path}: cannot read the file ({e.strerror or e}); expected an ONNX file") from e
    if not data:
        raise ModelError(f"{path}: found an empty file, expected an ONNX model; {AGAIN}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as e:
        # An ONNX file begins with the field ir_version, whose tag is the byte 8.
        state = "a truncated or damaged ONNX file" if data[0] == 8 else "something else"
        raise ModelError(f"{path}: found {state}, expected an ONNX model; {AGAIN}, or copy it again") from e
    if not model.HasField("graph") or not model.graph.node:
        raise ModelError(f"{path}: found no graph in it, expected an ONNX model; {AGAIN}, or copy it again")
    _load_external_data(model, Path(path))
    _check_data(model, str(path))
    return model


def prepare(model: onnx.ModelProto, subject: str = "model") -> onnx_ir.Model:
    """Check versions and graph of a parsed model, infer every shape and hand it over to onnx_ir.

    The argument is not changed.

    Args:
        model: with its data inside.
        subject: what errors call it.

    Raises:
        ModelError: a version is not supported, or the graph is not valid.
    """
    _check_versions(model, subject)
    schema.register()
    try:
        onnx.checker.check_model(model)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        # Old exporters list initializers among the inputs as well; ONNX then calls them default values.
        constants = {tensor.name for tensor in inferred.graph.initializer}
        inputs = [value for value in inferred.graph.input if value.name not in constants]
        del inferred.graph.input[:]
        inferred.graph.input.extend(inputs)
        result: onnx_ir.Model = onnx_ir.from_proto(inferred)
    except _INVALID as e:
        raise ModelError(f"{subject}: found an invalid graph ({' '.join(str(e).split())}); {AGAIN}") from e
    fold_quantized_constants(result.graph)
    return result


def _check_versions(model: onnx.ModelProto, subject: str) -> None:
    if not MIN_IR_VERSION <= model.ir_version <= MAX_IR_VERSION:
        raise ModelError(
            f"{subject}: found IR version {model.ir_version}, expected {MIN_IR_VERSION}..{MAX_IR_VERSION}; "
            f"{AGAIN} with ir_version={MAX_IR_VERSION}"
        )
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    opset = versions.get("ai.onnx")
    if opset is None:
        raise ModelError(f"{subject}: found no opset import of the standard domain, expected one; {AGAIN}")
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise ModelError(
            f"{subject}: found opset {opset}, expected {MIN_OPSET}..{MAX_OPSET}; {AGAIN} with opset_version=18"
        )
    used = any(node.domain == schema.DOMAIN for node in model.graph.node)
    version = versions.get(schema.DOMAIN)
    if used and version != schema.VERSION:
        found = "no version" if version is None else f"version {version}"
        raise ModelError(
            f"{subject}: found {found} of the domain {schema.DOMAIN}, expected version {schema.VERSION}; "
            f"{AGAIN}, or install the lqcompile that wrote it"
        )


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    folder = path.resolve().parent
    for tensor in _tensors(model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        subject = f"{path}: tensor '{tensor.name}'"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        file = (folder / location).resolve()
        if not location or Path(location).is_absolute() or not file.is_relative_to(folder):
            raise ModelError(
                f"{subject}: found its data at '{location}', expected a file below the folder of the model; {AGAIN}"
            )
        if not file.is_file():
            raise ModelError(
                f"{subject}: found no file '{location}' with its data, expected it next to the model; copy it there"
            )
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as e:
            detail = " ".join(str(e).split())
            raise ModelError(f"{subject}: cannot read its data from '{location}' ({detail}); copy it again") from e


def _check_data(model: onnx.ModelProto, subject: str) -> None:
    for tensor in _tensors(model.graph):
        try:
            onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as e:
            detail = " ".join(str(e).split())
            raise ModelError(
                f"{subject}: tensor '{tensor.name}': found data that does not fill its shape {list(tensor.dims)} "
                f"({detail}); {AGAIN}, or copy it again"
            ) from e


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph and of the graphs in its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)
