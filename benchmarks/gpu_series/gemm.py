"""Square matrix products: a low-bit 1x1 convolution of one image against int8 and float16 products of torch.

Rows are the pixels of the image, the depth its channels. Ours is the layer as networks run it: packed codes in, sums,
scales, thresholds, packed codes out. Torch's int8 is `torch._int_mm` (cuBLASLt), int8 in and int32 out, without scales;
its float16 is `torch.matmul`. All lie on the GPU, and are timed by events around graphs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from gpu_series.clock import in_turns, torch_timer
from gpu_series.peak_kernels import B1, FP16, INT8
from lqcompile.build import Selection, build
from lqcompile.cuda.model import CudaModel
from lqcompile.encoding import activation_levels, midpoint_thresholds
from lqcompile.graph import functions
from lqcompile.graph.load import MAX_IR_VERSION
from lqcompile.graph.schema import CONV, DOMAIN, QUANTIZE
from lqcompile.runtime import load

SIZES = (4096, 8192, 16384)
BITS = ((1, 1), (2, 2))

CHECKED = 64
"""Rows and columns whose codes are compared with NumPy's."""

INSTRUCTIONS = {"b1mma": B1, "b1wgmma": B1, "i8mma": INT8, "torch._int_mm": INT8, "torch.matmul": FP16}
"""Kernel to the first part of the names of the peaks of its instruction."""

SECONDS = 0.004
"""About as long a graph runs."""


def gemm_model(size: int, weight_bits: int, act_bits: int, seed: int) -> onnx.ModelProto:
    """``codes(codes(x) W)`` with random W: x float32[1, size, H, W] of `size` pixels, like the result.

    Levels are 0 to 2^act_bits - 1, weights the odd numbers around 0, so that every sum is an integer.
    """
    rng = np.random.default_rng([seed, size, weight_bits, act_bits])
    height = 1 << (size.bit_length() - 1) // 2
    basis = 2.0 ** np.arange(act_bits)
    levels, codes = activation_levels(basis)
    spread = math.sqrt(size * np.mean(levels**2) * (4**weight_bits - 1) / 3)  # deviation of a sum
    outer = (np.asarray(midpoint_thresholds(levels)) - levels.mean()) * spread
    arrays: dict[str, npt.NDArray[Any]] = {
        "inner": midpoint_thresholds(levels).astype(np.float32),
        "outer": (np.round(outer) + 0.5).astype(np.float32),
        "levels": levels.astype(np.float32),
        "act_basis": basis.astype(np.float32),
        "codes": codes,
        "zero": np.float32(0),
        "one": np.float32(1),
        "planes": rng.integers(0, 256, (size, weight_bits, size // 8), np.uint8),
        "basis": np.tile((2.0 ** np.arange(weight_bits)).astype(np.float32), (size, 1)),
        "zeros": np.zeros(size, np.float32),
        "ones": np.ones(size, np.float32),
    }
    quantizer = ["levels", "act_basis", "codes", "zero", "one"]
    nodes = [
        helper.make_node(QUANTIZE, ["x", "inner", *quantizer], ["a"], name="inner", domain=DOMAIN, integer_basis=1),
        helper.make_node(
            CONV,
            ["a", "planes", "basis", "zeros", "zeros", "ones"],
            ["s"],
            name="gemm",
            domain=DOMAIN,
            integer_basis=1,
            weight_shape=[size, size, 1, 1],
            strides=[1, 1],
            pads=[0, 0, 0, 0],
            dilations=[1, 1],
            group=1,
        ),
        helper.make_node(QUANTIZE, ["s", "outer", *quantizer], ["y"], name="outer", domain=DOMAIN, integer_basis=1),
    ]
    shape = ("N", size, height, size // height)
    infos = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", "y")]
    held = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "gemm", infos[:1], infos[1:], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=MAX_IR_VERSION)
    functions.attach(model)
    return model


def gemm_artifact(size: int, bits: tuple[int, int], target: str, folder: Path, select: Selection = "table") -> Path:
    """The artifact of a product, built unless the folder has it; beside it ``.onnx``, its model."""
    path = folder / f"gemm_{size}_w{bits[0]}a{bits[1]}_{target}{'' if select == 'table' else '_measured'}.tar"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(gemm_model(size, *bits, seed=0), path.with_suffix(".onnx"))
        build(path.with_suffix(".onnx"), target=target, output=path, select=select, batch=1)
    return path


def wrong_codes(model: CudaModel, file: onnx.ModelProto) -> int:
    """Runs a product, and counts the codes that differ from NumPy's in some rows and columns; 0 is right."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in file.graph.initializer}
    (port,) = model.inputs
    size, (height, width) = port.shape[0], port.shape[1:]
    rng = np.random.default_rng(1)
    # As many values as differ from one another, over and over: random numbers for all of them take long to draw.
    values = rng.uniform(-0.5, arrays["levels"].max() + 0.5, 65_521).astype(np.float32)
    x = np.resize(values, (size, height * width))
    result = model.run({port.name: x.reshape(1, size, height, width)})[model.outputs[0].name].reshape(size, -1)
    rows, columns = (np.sort(rng.choice(size, min(CHECKED, size), replace=False)) for _ in range(2))
    acts = arrays["levels"][np.searchsorted(arrays["inner"], x[:, rows])].astype(np.int64)
    bits = np.unpackbits(arrays["planes"][columns], axis=2, bitorder="little").astype(np.int64) * 2 - 1
    weights = np.einsum("oi,oik->ok", arrays["basis"][columns].astype(np.int64), bits)
    expected = arrays["levels"][np.searchsorted(arrays["outer"], weights @ acts)]
    return int((result[np.ix_(columns, rows)] != expected).sum())


def own_cell(model: CudaModel, file: onnx.ModelProto) -> dict[str, Any]:
    """Facts of a product of ours, after its codes were compared; `timer` takes its times."""
    layer = model.variant["layers"][0]
    return {"kernel": layer["kernel"], "wrong_codes": wrong_codes(model, file), "checked": CHECKED**2}


def timer(model: CudaModel, repeats: int) -> Callable[[], float]:
    """Seconds of the layer alone, on the codes that the last run left."""
    name = model.variant["layers"][0]["name"]
    region = next(region for region in model.variant["regions"] if region["name"] == name)
    return lambda: model.engine.seconds(1, region["first"], region["last"], repeats)


def measure_gemm(
    torch: Any,
    size: int,
    target: str,
    folder: Path,
    rounds: int,
    peaks: Mapping[str, Any],
    select: Selection = "table",
) -> dict[str, dict[str, Any]]:
    """Products of one size with all numbers of bits, beside int8 and float16, all in turns.

    Args:
        torch: the module, or None where it cannot be used: then there is nothing to compare with.
        size: rows, depth and columns.
        target: that artifacts are built for.
        folder: of artifacts.
        rounds: readings of each.
        peaks: of this GPU (`gpu_series.peaks.measure_peaks`).
        select: how kernels are chosen.

    Returns:
        for each of ours ``W1A1`` and so on: times, codes that differ, and parts of the peak; and for each of torch's.
    """
    macs = size**3
    timers: dict[str, Callable[[], float]] = {}
    cells: dict[str, dict[str, Any]] = {}
    fastest = max(peak["best"] for peak in peaks.values() if peak["unit"] == "MAC/s")
    models = []  # they must live as long as they are timed
    for bits in BITS:
        path = gemm_artifact(size, bits, target, folder, select)
        model = load(path)
        if not isinstance(model, CudaModel):
            raise TypeError(f"{path}: found an artifact for another machine")
        models.append(model)
        name = f"W{bits[0]}A{bits[1]}"
        cells[name] = own_cell(model, onnx.load(path.with_suffix(".onnx"))) | {"pairs": bits[0] * bits[1]}
        timers[name] = timer(model, repeats(macs * bits[0] * bits[1], fastest))
    if torch is not None:
        timers |= torch_products(torch, size, repeats(macs, fastest / 4))
        cells |= {"int8": {"kernel": "torch._int_mm", "pairs": 1}, "fp16": {"kernel": "torch.matmul", "pairs": 1}}
    for name, times in in_turns(timers, rounds).items():
        cells[name] |= {"ms": times.median_ms, "uncertainty": times.uncertainty, "macs": macs}
        cells[name]["of_peak"] = of_peak(cells[name], peaks)
    return cells


def of_peak(cell: Mapping[str, Any], peaks: Mapping[str, Any]) -> float | None:
    """Part of the peak of the instruction that a kernel is made of; None for those without one.

    Args:
        cell: with ``kernel``, ``macs``, ``pairs`` (of bit planes) and ``ms``.
        peaks: as `gpu_series.peaks.measure_peaks` gives them.
    """
    kind = INSTRUCTIONS.get(cell["kernel"])
    known = [peak["best"] for name, peak in peaks.items() if kind is not None and name.startswith(f"{kind}_")]
    if not known:
        return None
    work = cell["macs"] * (cell["pairs"] if kind == B1 else 1)
    return float(work / (cell["ms"] / 1e3) / max(known))


def repeats(macs: float, per_s: float) -> int:
    """How many times over a graph does a product."""
    return max(1, min(50, round(SECONDS / (macs / per_s))))


def torch_products(torch: Any, size: int, times: int) -> dict[str, Callable[[], float]]:
    """Torch's int8 and float16 products."""
    codes = [torch.randint(-128, 128, (size, size), dtype=torch.int8, device="cuda") for _ in range(2)]
    halves = [torch.randn(size, size, device="cuda").half() for _ in range(2)]
    return {
        "int8": torch_timer(torch, lambda: torch._int_mm(codes[0], codes[1].T), times),
        "fp16": torch_timer(torch, lambda: torch.matmul(halves[0], halves[1].T), times),
    }
