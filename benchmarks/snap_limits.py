"""What small integer bases cost: the shipped network with its bases snapped to smaller limits, not trained further.

    python benchmarks/snap_limits.py [--limits 127/255 31/15]

Each limit is what the integers of a basis may add up to: of weights, of activations. Right answers are of the 1,000
shipped test images in ONNX Runtime.
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limits", nargs="+", default=LIMITS)
    model = onnx.load(DATA / "fashion_mnist_w2a2.onnx")
    with np.load(DATA / "fashion_mnist_test.npz") as samples:
        images, labels = samples["images"][:, None].astype(np.float32) / 255, samples["labels"]
    print("| limits (weights, activations) | right answers | largest error of a level |\n|---|---|---|")
    for text in parser.parse_args().limits:
        weights, acts = (int(part) for part in text.split("/"))
        made, error = snapped(model, weights, acts)
        print(f"| {weights}, {acts} | {right_answers(made, images, labels):.1%} | {error:.2%} |", flush=True)


if __name__ == "__main__":
    main()
