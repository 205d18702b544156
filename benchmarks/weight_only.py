"""Weight-only linear layers at batch 1: low-bit weights on float32 input, against ONNX Runtime in float and 4 bits.

    python benchmarks/weight_only.py [--threads 1] [--rounds 21] [--target x86] [--shape 4096x4096]

Peers are MatMul in float32 and the contrib operator MatMulNBits (4 bits, blocks of 32), which multiplies in float32
(accuracy level 1) or on 8-bit activations (level 4). Weights are random. All are timed interleaved in one run; medians.
Such a layer uses each weight once, so the bytes of the weights bound it: they are given with each figure.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from lqcompile import cpu
from lqcompile.build import build
from lqcompile.nn import export, quantize
from lqcompile.runtime import load
from lqcompile.timing import measure

SHAPES = ("4096x4096", "9216x4096", "512x1000")
"""Inputs x outputs: AlexNet's second and first linear layer, ResNet-18's last one."""

BITS = (1, 2, 3)

BLOCK = 32
"""Weights of MatMulNBits that share a scale."""

Call = Callable[[], object]


def ours(inputs: int, outputs: int, bits: int, folder: Path, target: str, threads: int) -> Call:
    """A call that runs our kernel."""
    torch.manual_seed(bits)
    model = torch.nn.Sequential(torch.nn.Linear(inputs, outputs, bias=False))
    quantize(model, bits, None, skip=())
    sample = torch.randn(1, inputs)
    path, artifact = folder / "layer.onnx", folder / "layer.tar"
    model(sample)  # Training mode: the bases are fitted to the weights.
    export(model.eval(), sample, path)
    build(path, target=target, output=artifact)
    compiled = load(artifact, threads=threads)
    feeds = {compiled.inputs[0].name: sample.numpy()}
    compiled.run(feeds)
    (layer,) = compiled.variant["layers"]
    return compiled.layer_runners(feeds)[layer["name"]]


def session(node: Any, constants: list[Any], inputs: int, outputs: int, threads: int) -> Call:
    """A call that runs one node in ONNX Runtime on bound memory."""
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    loaded = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding = loaded.io_binding()
    x = np.random.default_rng(0).normal(size=(1, inputs)).astype(np.float32)
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(x))
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_shape_and_type([1, outputs], np.float32))
    return lambda: loaded.run_with_iobinding(binding)


def float_layer(inputs: int, outputs: int, threads: int) -> Call:
    """MatMul."""
    weights = np.random.default_rng(1).normal(size=(inputs, outputs)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return session(node, [numpy_helper.from_array(weights, "w")], inputs, outputs, threads)


def four_bits(inputs: int, outputs: int, level: int, threads: int) -> Call:
    """MatMulNBits."""
    rng = np.random.default_rng(2)
    weights = rng.integers(0, 256, (outputs, inputs // BLOCK, BLOCK // 2)).astype(np.uint8)
    scales = np.full(outputs * inputs // BLOCK, 0.01, np.float32)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "w", "s"],
        ["y"],
        domain="com.microsoft",
        K=inputs,
        N=outputs,
        bits=4,
        block_size=BLOCK,
        accuracy_level=level,
    )
    constants = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scales, "s")]
    return session(node, constants, inputs, outputs, threads)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--target", default="x86")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="may be repeated; default: all")
    arguments = parser.parse_args()
    table = Table(
        "layer",
        "weights",
        "MB",
        "us",
        "times as fast as float32",
        title=f"Linear layers on one float32 vector, {arguments.threads} thread(s), {cpu.cpu_name()}",
    )
    for shape in arguments.shape or SHAPES:
        inputs, outputs = (int(size) for size in shape.split("x"))
        runners: dict[str, tuple[Call, float]] = {
            "ONNX Runtime float32": (float_layer(inputs, outputs, arguments.threads), 32),
            "ONNX Runtime 4 bits, float32": (four_bits(inputs, outputs, 1, arguments.threads), 4 + 32 / BLOCK),
            "ONNX Runtime 4 bits, int8 activations": (four_bits(inputs, outputs, 4, arguments.threads), 4 + 32 / BLOCK),
        }
        with tempfile.TemporaryDirectory() as folder:
            for bits in BITS:
                call = ours(inputs, outputs, bits, Path(folder), arguments.target, arguments.threads)
                runners[f"lqcompile {bits} bit(s)"] = (call, bits)
        timings = measure({name: call for name, (call, _) in runners.items()}, arguments.rounds)
        base = timings["ONNX Runtime float32"].median_ms
        for name, (_, bits) in runners.items():
            time = timings[name].median_ms
            table.add_row(
                shape, name, f"{inputs * outputs * bits / 8e6:.2f}", f"{1e3 * time:.0f}", f"{base / time:.1f}"
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
