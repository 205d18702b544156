"""What small integer bases cost: the shipped network with its bases snapped to smaller limits, not trained further.

    python benchmarks/snap_limits.py [--limits 127/255 31/15]
    python benchmarks/snap_limits.py --gaussian

Each limit is what the integers of a basis may add up to: of weights, of activations. Right answers are of the 1,000
shipped test images in ONNX Runtime. With ``--gaussian``: by how much the squared error of the best basis for normally
distributed weights grows when it is snapped.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper

from lqcompile.encoding import activation_levels
from lqcompile.integer_basis import snap_basis

DATA = Path(__file__).parents[1] / "lqcompile" / "data"
GAUSSIAN_SAMPLES, FIT_STEPS = 100_000, 100

LIMITS = ("127/255", "63/127", "31/63", "31/31", "31/15", "127/15", "15/31", "14/15", "14/7", "7/15", "7/7")


def snapped(model: onnx.ModelProto, weight_limit: int, act_limit: int) -> tuple[onnx.ModelProto, float]:
    """The model with other integers, and the largest error of a level relative to the largest level of its layer."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    initializers = {item.name: item for item in made.graph.initializer}
    before = {name: numpy_helper.to_array(item).copy() for name, item in initializers.items()}

    def write(name: str, value: npt.ArrayLike) -> None:
        array = np.asarray(value, before[name].dtype).reshape(before[name].shape)
        initializers[name].CopyFrom(numpy_helper.from_array(array, name))

    worst = 0.0
    for node in made.graph.node:
        if node.op_type == "LQQuantize":
            _, thresholds, levels, basis, codes, _, scale = node.input
            old = before[basis].astype(np.float64) * float(before[scale])
            fit = snap_basis(old[None], act_limit, nonnegative=True)
            write(basis, fit.integers[0])
            write(scale, fit.scale[0])
            made_levels, made_codes = activation_levels(fit.integers[0] * fit.scale[0], 0.0)
            write(levels, made_levels)
            write(codes, made_codes)
            write(thresholds, (made_levels[1:] + made_levels[:-1]) / 2)
            worst = max(worst, float(np.abs(made_levels - before[levels]).max() / before[levels].max()))
        elif node.op_type in ("LQConv", "LQLinear"):
            basis, scale = node.input[2], node.input[5]
            fit = snap_basis(before[basis].astype(np.float64) * before[scale][:, None], weight_limit)
            write(basis, fit.integers)
            write(scale, fit.scale)
    return made, worst


def right_answers(model: onnx.ModelProto, images: npt.NDArray[Any], labels: npt.NDArray[Any]) -> float:
    """Share of the images."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    found = [session.run(None, {name: images[start : start + 100]})[0] for start in range(0, len(images), 100)]
    return float((np.concatenate(found).argmax(axis=1) == labels).mean())


def nearest(values: npt.NDArray[Any], basis: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], float]:
    """Signs of the nearest sum of +-basis for each value, [N, K], and the mean squared error."""
    signs = 2.0 * (np.arange(2 ** len(basis))[:, None] >> np.arange(len(basis)) & 1) - 1
    order = np.argsort(signs @ basis)
    levels = (signs @ basis)[order]
    chosen = np.searchsorted((levels[1:] + levels[:-1]) / 2, values)
    return signs[order[chosen]], float(((values - levels[chosen]) ** 2).mean())


def gaussian_table() -> None:
    """Print how much larger the squared error of snapped bases is."""
    values = np.random.default_rng(0).normal(size=GAUSSIAN_SAMPLES)
    print("| bits | limit of the weights | integers | squared error |\n|---|---|---|---|")
    for bits in (2, 3):
        basis = 0.4 * 2.0 ** np.arange(bits)
        for _ in range(FIT_STEPS):
            basis = np.linalg.lstsq(nearest(values, basis)[0], values, rcond=None)[0]
        least = nearest(values, basis)[1]
        for limit in (127, 31, 15, 14, 7):
            fit = snap_basis(basis[None], limit)
            error = nearest(values, fit.integers[0] * fit.scale[0])[1]
            integers = ", ".join(str(value) for value in fit.integers[0])
            print(f"| {bits} | {limit} | {integers} | {error / least - 1:+.1%} |")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", nargs="+", default=LIMITS)
    parser.add_argument("--gaussian", action="store_true", help="squared error for normally distributed weights")
    arguments = parser.parse_args()
    if arguments.gaussian:
        gaussian_table()
        return
    model = onnx.load(DATA / "fashion_mnist_w2a2.onnx")
    with np.load(DATA / "fashion_mnist_test.npz") as samples:
        images, labels = samples["images"][:, None].astype(np.float32) / 255, samples["labels"]
    print("| limits (weights, activations) | right answers | largest error of a level |\n|---|---|---|")
    for text in arguments.limits:
        weights, acts = (int(part) for part in text.split("/"))
        made, error = snapped(model, weights, acts)
        print(f"| {weights}, {acts} | {right_answers(made, images, labels):.1%} | {error:.2%} |", flush=True)


if __name__ == "__main__":
    main()
