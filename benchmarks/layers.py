"""Single layers against peers: a 3x3 or 1x1 convolution with batch normalization, ReLU and requantization.

    python benchmarks/layers.py [--threads 1] [--rounds 21] [--target x86] [--least]
                                [--weight-limit 127] [--act-limit 255] [--layers 0 1]

Weights and activations are random and calibrated. Ours reads and writes packed codes; the fp32 layer of ONNX Runtime is
a Conv and a Relu (batch normalization folded), the int8 layer of ONNX Runtime and of OpenVINO a QDQ Conv that ends in
uint8. Each of their figures is a quarter of a chain of four such layers where shapes allow it, so that the cost of a
call weighs little. All are timed interleaved in one run; medians, or the shortest of the rounds with ``--least``, for a
machine that is busy with other work. The limits are those of `snap`, for integer bases. Set ONEDNN_MAX_CPU_ISA to hold
OpenVINO to an instruction set.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from lqcompile import cpu
from lqcompile.build import build
from lqcompile.nn import calibrate, export, quantize, snap
from lqcompile.runtime import load, set_threads
from lqcompile.timing import Stopwatch

CHAIN = 4


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A convolution with as much padding as keeps the size at stride 1."""

    inputs: int
    outputs: int
    size: int
    kernel: int = 3
    stride: int = 1

    @property
    def name(self) -> str:
        """Shape for people."""
        stride = f" /{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel} {self.inputs}->{self.outputs} @{self.size}{stride}"

    @property
    def out_size(self) -> int:
        """Rows and columns of the output."""
        return (self.size + 2 * (self.kernel // 2) - self.kernel) // self.stride + 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one sample."""
        return self.out_size**2 * self.outputs * self.inputs * self.kernel**2


LAYERS = (
    Layer(inputs=64, outputs=64, size=56),
    Layer(inputs=128, outputs=128, size=28),
    Layer(inputs=256, outputs=256, size=14),
    Layer(inputs=512, outputs=512, size=7),
    Layer(inputs=256, outputs=512, size=14, stride=2),
    Layer(inputs=256, outputs=64, size=56, kernel=1),
)
BITS = ((1, 1, "float"), (1, 2, "float"), (2, 2, "float"), (2, 2, "int8"), (3, 3, "int8"))


@dataclass(frozen=True, kw_only=True)
class Model:
    """A chain of layers for a peer: `length` of them."""

    data: bytes
    shape: list[int]
    final: list[int]
    length: int
    kind: int


def compiled_layer(
    layer: Layer, bits: tuple[int, int, str], folder: Path, target: str, limits: tuple[int, int]
) -> tuple[Any, str]:
    """A call that runs our kernel for the layer, and the kernel's family."""
    weight_bits, act_bits, basis = bits
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(
        layer.inputs, layer.outputs, layer.kernel, layer.stride, layer.kernel // 2, bias=False
    )
    follower = torch.nn.Conv2d(layer.outputs, 32, 1, bias=False)
    model = torch.nn.Sequential(
        torch.nn.ReLU(), convolution, torch.nn.BatchNorm2d(layer.outputs), torch.nn.ReLU(), follower
    )
    sample = torch.randn(1, layer.inputs, layer.size, layer.size)
    quantize(model, weight_bits, act_bits, skip=(), basis=basis)  # type: ignore[arg-type]
    calibrate(model, [sample])
    if basis == "int8":
        snap(model, *limits)
    onnx_path, artifact = folder / "layer.onnx", folder / "layer.tar"
    export(model.eval(), sample, onnx_path)
    build(onnx_path, target=target, output=artifact)
    compiled = load(artifact)
    first = next(entry for entry in compiled.variant["layers"] if entry["op"] == "LQConv")
    inputs = {compiled.inputs[0].name: sample.numpy()}
    compiled.run(inputs)
    for name, run in compiled.layer_runners(inputs).items():
        run()
        if name == first["name"]:
            return run, str(first["kernel"])
    raise RuntimeError("the layer is not among the regions")


def chain(nodes: list[Any], constants: list[Any], layer: Layer, kind: int, output: str, length: int) -> Model:
    """A checked ONNX model of the nodes."""
    shape = [1, layer.inputs, layer.size, layer.size]
    final = [1, layer.outputs, layer.out_size, layer.out_size]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(output, kind, final)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return Model(data=model.SerializeToString(), shape=shape, final=final, length=length, kind=kind)


def random_input(model: Model) -> Any:
    """An input of the model's type."""
    rng = np.random.default_rng(0)
    if model.kind == TensorProto.FLOAT:
        return rng.normal(size=model.shape).astype(np.float32)
    return rng.integers(0, 255, model.shape).astype(np.uint8)


def onnxruntime_call(model: Model, threads: int) -> Any:
    """A call that runs an ONNX Runtime session on bound memory."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    loaded = onnxruntime.InferenceSession(model.data, options, providers=["CPUExecutionProvider"])
    data = random_input(model)
    binding = loaded.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy(data))
    output = loaded.get_outputs()[0].name
    binding.bind_ortvalue_output(output, onnxruntime.OrtValue.ortvalue_from_shape_and_type(model.final, data.dtype))
    return lambda: loaded.run_with_iobinding(binding)


def openvino_call(model: Model, threads: int) -> Any:
    """A call that runs an OpenVINO request on bound memory."""
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(core.read_model(model.data), "CPU", options).create_infer_request()
    request.set_input_tensor(openvino.Tensor(random_input(model)))
    return request.infer


def float_layers(layer: Layer) -> Model:
    """The fp32 chain."""
    length = CHAIN if layer.stride == 1 and layer.inputs == layer.outputs else 1
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], "x"
    for index in range(length):
        weight = rng.normal(size=(layer.outputs, layer.inputs, layer.kernel, layer.kernel)) / layer.inputs
        constants += [
            numpy_helper.from_array(weight.astype(np.float32), f"w{index}"),
            numpy_helper.from_array(rng.normal(size=layer.outputs).astype(np.float32), f"b{index}"),
        ]
        nodes += [
            helper.make_node(
                "Conv",
                [value, f"w{index}", f"b{index}"],
                [f"c{index}"],
                strides=[layer.stride] * 2,
                pads=[layer.kernel // 2] * 4,
            ),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"]),
        ]
        value = f"r{index}"
    return chain(nodes, constants, layer, TensorProto.FLOAT, value, length)


def int8_layers(layer: Layer) -> Model:
    """The int8 QDQ chain."""
    length = CHAIN if layer.stride == 1 and layer.inputs == layer.outputs else 1
    rng = np.random.default_rng(0)
    scales = np.full(layer.outputs, 0.01, np.float32)
    constants = [
        numpy_helper.from_array(np.float32(0.05), "s"),
        numpy_helper.from_array(np.uint8(0), "z"),
        numpy_helper.from_array(scales, "ws"),
        numpy_helper.from_array(np.zeros(layer.outputs, np.int8), "wz"),
        numpy_helper.from_array(scales * np.float32(0.05), "bs"),
        numpy_helper.from_array(np.zeros(layer.outputs, np.int32), "bz"),
    ]
    nodes, value = [], "x"
    for index in range(length):
        weight = rng.integers(-127, 128, (layer.outputs, layer.inputs, layer.kernel, layer.kernel))
        constants += [
            numpy_helper.from_array(weight.astype(np.int8), f"w{index}"),
            numpy_helper.from_array(rng.integers(-99, 99, layer.outputs).astype(np.int32), f"b{index}"),
        ]
        nodes += [
            helper.make_node("DequantizeLinear", [value, "s", "z"], [f"x{index}"]),
            helper.make_node("DequantizeLinear", [f"w{index}", "ws", "wz"], [f"wd{index}"], axis=0),
            helper.make_node("DequantizeLinear", [f"b{index}", "bs", "bz"], [f"bd{index}"], axis=0),
            helper.make_node(
                "Conv",
                [f"x{index}", f"wd{index}", f"bd{index}"],
                [f"c{index}"],
                strides=[layer.stride] * 2,
                pads=[layer.kernel // 2] * 4,
            ),
            helper.make_node("Relu", [f"c{index}"], [f"r{index}"]),
            helper.make_node("QuantizeLinear", [f"r{index}", "s", "z"], [f"q{index}"]),
        ]
        value = f"q{index}"
    return chain(nodes, constants, layer, TensorProto.UINT8, value, length)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--target", default="x86")
    parser.add_argument("--weight-limit", type=int, default=127)
    parser.add_argument("--act-limit", type=int, default=255)
    parser.add_argument("--least", action="store_true")
    parser.add_argument("--layers", type=int, nargs="+", default=range(len(LAYERS)), help="numbers of rows, from 0")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = [f"W{w}A{a} {'integer' if basis == 'int8' else 'float'} bases" for w, a, basis in BITS]
    table = Table(
        "layer",
        "fp32 us",
        "int8 us",
        "OpenVINO int8 us",
        *columns,
        title=(
            "Times as fast as ONNX Runtime fp32 / int8 / OpenVINO int8, "
            f"{arguments.threads} thread(s), {cpu.cpu_name()}"
        ),
    )
    set_threads(arguments.threads)
    limits = (arguments.weight_limit, arguments.act_limit)
    for layer in (LAYERS[number] for number in arguments.layers):
        with tempfile.TemporaryDirectory() as folder:
            ours = [compiled_layer(layer, bits, Path(folder), arguments.target, limits) for bits in BITS]
        fp32, int8 = float_layers(layer), int8_layers(layer)
        runners = {
            "fp32": onnxruntime_call(fp32, arguments.threads),
            "int8": onnxruntime_call(int8, arguments.threads),
            "openvino": openvino_call(int8, arguments.threads),
        }
        peers = list(runners)
        runners |= {str(index): run for index, (run, _) in enumerate(ours)}
        stopwatch = Stopwatch(runners)
        rounds = [stopwatch.round() for _ in range(arguments.rounds)]
        statistic = min if arguments.least else statistics.median
        times = {name: statistic(entry[name] for entry in rounds) * 1e6 for name in runners}
        for name in peers:
            times[name] /= fp32.length
        cells = []
        for index, (_, family) in enumerate(ours):
            mine = times[str(index)]
            ratios = " / ".join(f"{times[name] / mine:.1f}" for name in peers)
            cells.append(f"{ratios}  ({family}, {mine:.0f} us, {layer.macs / mine / 1e3:.0f} GMAC/s)")
        table.add_row(layer.name, *(f"{times[name]:.0f}" for name in peers), *cells)
    Console(width=280).print(table)


if __name__ == "__main__":
    main()
