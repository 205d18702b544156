"""Prove that a compiled model equals its ONNX file."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from lqcompile.errors import InputError, VerificationError
from lqcompile.graph.check import load_checked
from lqcompile.graph.fuse import fuse
from lqcompile.graph.plan import Contraction, Plan
from lqcompile.graph.rewrite import simplify
from lqcompile.graph.translate import to_flow
from lqcompile.inputs import check_inputs
from lqcompile.verify.compiled import CompiledModel
from lqcompile.verify.forced import add_layer, force_integer_form, force_stock_file, plan_values, start_layers
from lqcompile.verify.free import FreeRun, chain
from lqcompile.verify.inexact import is_exact_region
from lqcompile.verify.report import Report
from lqcompile.verify.sessions import integer_session, open_session, stock_session
from lqcompile.verify.stock import StockFile, StockTensors, wanted_tensors

CHUNK_BYTES = 256 << 20
"""About as many bytes of tensors are held at once."""

MAX_CHUNK = 64
"""Most samples at once; more do not make ONNX Runtime faster."""

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class _Port:
    """A graph input, for `check_inputs`."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


def verify(
    model_path: str | os.PathLike[str],
    compiled: CompiledModel,
    samples: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare a compiled model with ONNX Runtime, layer by layer and end to end.

    Forced, every layer is fed with the reference's own tensors: those of the integer form, to which exact layers must
    be equal bit for bit, and those of the file itself, whose codes may differ where the value before the quantizer is
    within float32 rounding of a threshold (`lqcompile.verify.rounding` derives the bound). Free-running, the outputs
    must be those of the layers one by one, and are compared with those of the file.

    Args:
        model_path: the ONNX file that `compiled` was built from.
        compiled: to verify.
        samples: float32[N, ...] by graph input.
        labels: integers [N], the classes of the samples.
        progress: called with what is being done and the part of the work that is done.

    Returns:
        What was compared and what differs; `Report.passed` is the verdict.

    Raises:
        ModelError: the file cannot be read or violates the contract.
        InputError: a sample or label does not fit.
        VerificationError: the compiled model is one of another file.
    """
    model = load_checked(model_path)
    flow = simplify(to_flow(model))
    plan = fuse(flow)
    _check_values(model_path, plan, compiled)
    feeds, classes = _checked_samples(plan, samples, labels)
    proto = onnx.load(os.fspath(model_path))
    integers, opened, stock = integer_session(plan), open_session(proto, wanted_tensors(flow)), stock_session(proto)
    file = StockFile(plan, flow, model)
    layers, free = start_layers(plan), FreeRun(plan)
    total = len(next(iter(feeds.values())))
    step = _fixed_batch(proto, total) or _chunk(plan)
    for start in range(0, total, step):
        part = {name: array[start : start + step] for name, array in feeds.items()}
        outputs = integers.run(part)
        values = plan_values(plan, part, outputs)
        tensors = StockTensors(file, {**part, **opened.run(part)})
        equal = set()
        for number, region in enumerate(plan.regions):
            tally, bit_equal = force_integer_form(plan, region, compiled, values, outputs)
            from_file = force_stock_file(plan, region, compiled, tensors)
            layers[region.name] = add_layer(layers[region.name], tally, from_file, bit_equal=bit_equal)
            if bit_equal:
                equal.add(region.name)
            if progress is not None:
                done = start + min(step, total - start) * (number + 1) / (len(plan.regions) + 1)
                progress(f"comparing {region.name}", done / total)
        chained = chain(plan, compiled, values, equal)
        answers = None if classes is None else classes[start : start + step]
        free.add(compiled.run(part), stock.run(part), chained, answers)
        if progress is not None:
            progress("comparing outputs", min(start + step, total) / total)
    reports = tuple(layers.values())
    return Report(
        reference="integer form" if _has_exact_contraction(plan) else "stock file",
        layers=reports,
        free=free.report(reports),
        accuracy=None if classes is None else free.accuracy(),
    )


def _has_exact_contraction(plan: Plan) -> bool:
    return any(isinstance(region.operation, Contraction) and is_exact_region(plan, region) for region in plan.regions)


def _check_values(model_path: str | os.PathLike[str], plan: Plan, compiled: CompiledModel) -> None:
    missing = sorted(plan.values.keys() - compiled.plan_values)
    if missing:
        raise VerificationError(
            f"model '{os.fspath(model_path)}': found a compiled model without the value '{missing[0]}', expected one "
            "that was built from this file; build it again"
        )


def _checked_samples(
    plan: Plan, samples: Mapping[str, npt.ArrayLike], labels: npt.ArrayLike | None
) -> tuple[dict[str, npt.NDArray[np.float32]], npt.NDArray[np.integer] | None]:
    """The samples by graph input, and the labels."""
    ports = [_Port(name=value.name, shape=value.shape) for value in plan.inputs]
    feeds = {name: array.astype(np.float32) for name, array in check_inputs(ports, samples).items()}
    total = len(next(iter(feeds.values())))
    if labels is None:
        return feeds, None
    classes = np.asarray(labels)
    if classes.shape != (total,) or not np.issubdtype(classes.dtype, np.integer):
        raise InputError(
            f"labels: found {classes.dtype}{list(classes.shape)}, expected integers [{total}]; give one per sample"
        )
    return feeds, classes


def _fixed_batch(model: onnx.ModelProto, samples: int) -> int:
    """The batch size that the file insists on; 0 if it takes any."""
    first = next(value for value in model.graph.input if value.type.tensor_type.HasField("shape"))
    batch: int = first.type.tensor_type.shape.dim[0].dim_value
    if batch and samples % batch:
        raise InputError(f"samples: found {samples}, expected a multiple of {batch}, the batch size of the file")
    return batch


def _chunk(plan: Plan) -> int:
    """Samples at once: both references hold every value, and the integers are larger still."""
    held = sum(int(np.prod(value.shape)) for value in plan.values.values())
    for region in plan.regions:
        if isinstance(region.operation, Contraction):
            # Sixteen plane pairs at most.
            held += 16 * int(np.prod(region.operation.out_shape))
    return int(np.clip(CHUNK_BYTES // (8 * held), 1, MAX_CHUNK))
