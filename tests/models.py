"""Small random LQ models for tests: valid under the contract, and under ONNX Runtime.

`Builder` grows a model operator by operator; the functions below it give common shapes. Weights and levels are scaled
so that values stay near unit variance and every code of a quantizer occurs.

    model = Builder(rng, (8, 9, 9)).quantize(2).conv(16, bits=2).batch_norm().relu().build()
    (y,) = run_onnxruntime(model, random_input(rng, model, batch=3))
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from lqcompile.encoding import SCALE_BITS, activation_levels, midpoint_thresholds, pack_planes
from lqcompile.graph import functions
from lqcompile.graph.load import MAX_IR_VERSION
from lqcompile.graph.schema import CONV, DOMAIN, LINEAR, QUANTIZE

Shape = tuple[int, ...]


class Builder:
    """A model under construction; every operator applies to `value`, the current end, and moves it on.

    Args:
        rng: source of every random number.
        shape: (C, H, W) or (C,) of one input sample.
        opset: of the standard operators.
        batch: dimension 0; a name leaves it open.
    """

    def __init__(self, rng: np.random.Generator, shape: Shape, *, opset: int = 18, batch: int | str = "N") -> None:
        self.rng = rng
        self.opset = opset
        self.batch = batch
        self.value = "x"
        self.shape = tuple(shape)
        self.shapes: dict[str, Shape] = {"x": self.shape}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def build(self, outputs: Sequence[str] = ()) -> onnx.ModelProto:
        """The model; its outputs are the current end and then the values named."""
        infos = [self._info(name, self.shapes[name]) for name in (self.value, *outputs)]
        graph = helper.make_graph(self.nodes, "test", [self._info("x", self.shapes["x"])], infos, self.initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=MAX_IR_VERSION)
        functions.attach(model)
        return model

    def at(self, name: str) -> Builder:
        """Go back to an earlier value: the next operator reads it."""
        self.value, self.shape = name, self.shapes[name]
        return self

    def constant(self, label: str, array: object) -> str:
        """Add an initializer; returns its name."""
        name = f"{label}_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(np.shape(array)), name))
        return name

    def node(self, op_type: str, inputs: Sequence[str], shape: Shape, **attributes: object) -> Builder:
        """Add any node; its output becomes the current end, with samples of `shape`."""
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [f"v_{name}"], name=name, **attributes))
        self.value, self.shape = f"v_{name}", tuple(shape)
        self.shapes[self.value] = self.shape
        return self

    # ------------------------------------------------------------------ low-bit operators

    def quantize(self, bits: int, *, integer: bool = False, offset: float = 0.0, signed: bool = False) -> Builder:
        """LQQuantize with a random basis, jittered thresholds.

        Args:
            bits: K.
            integer: an integer basis; excludes the other two.
            offset: a0.
            signed: basis entries of both signs.
        """
        if integer:
            basis = self.rng.permutation(np.arange(1, 256 // bits))[:bits].astype(np.float32)
            scale = short_scale(2.5 / basis.sum() * self.rng.uniform(0.7, 1.3))
        else:
            basis = (2.0 ** np.arange(bits) * self.rng.uniform(0.75, 1.25, bits) * 2.5 / (2**bits - 1)).astype(
                np.float32
            )
            basis = basis * self.rng.choice([-1.0, 1.0], bits).astype(np.float32) if signed else basis
            scale = np.float32(1)
        exact, codes = activation_levels(basis)
        levels = (np.float32(offset).astype(np.float64) + scale.astype(np.float64) * exact).astype(np.float32)
        thresholds = midpoint_thresholds(levels) + self.rng.uniform(-0.2, 0.2, levels.size - 1) * np.diff(levels)
        arrays = {
            "thresholds": thresholds.astype(np.float32),
            "levels": levels,
            "basis": basis,
            "codes": codes,
            "offset": np.float32(offset),
            "scale": scale,
        }
        names = [self.constant(label, array) for label, array in arrays.items()]
        return self.node(QUANTIZE, [self.value, *names], self.shape, domain=DOMAIN, integer_basis=int(integer))

    def conv(
        self,
        channels: int,
        *,
        bits: int = 2,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        pads: int | tuple[int, int, int, int] | None = None,
        dilation: int | tuple[int, int] = 1,
        group: int = 1,
        integer: bool = False,
        offset: bool = False,
        bias: bool = True,
    ) -> Builder:
        """LQConv with random planes; `pads` of None keeps the size at stride 1."""
        geometry = _geometry(kernel, stride, pads, dilation)
        shape = (channels, self.shape[0] // group, *geometry["kernel_shape"])
        names = self._low_bit_weights(shape, bits, integer, offset, bias)
        attributes = {label: geometry[label] for label in ("strides", "pads", "dilations")}
        return self.node(
            CONV,
            [self.value, *names],
            (channels, *_output_size(self.shape, **geometry)),
            domain=DOMAIN,
            weight_shape=shape,
            group=group,
            integer_basis=int(integer),
            **attributes,
        )

    def linear(
        self, channels: int, *, bits: int = 2, integer: bool = False, offset: bool = False, bias: bool = True
    ) -> Builder:
        """LQLinear with random planes."""
        shape = (channels, self.shape[0])
        names = self._low_bit_weights(shape, bits, integer, offset, bias)
        return self.node(
            LINEAR, [self.value, *names], (channels,), domain=DOMAIN, weight_shape=shape, integer_basis=int(integer)
        )

    def _low_bit_weights(self, shape: Shape, bits: int, integer: bool, offset: bool, bias: bool) -> list[str]:
        size = int(np.prod(shape[1:]))
        if integer:
            basis = np.stack([self.rng.permutation(np.arange(1, 127 // bits + 1))[:bits] for _ in range(shape[0])])
            spread = np.sqrt((basis.astype(np.float64) ** 2).sum(axis=1) * size)
            scale = short_scale(self.rng.uniform(0.7, 1.3, shape[0]) / spread)
        else:
            basis = 2.0 ** np.arange(bits) * self.rng.uniform(0.75, 1.25, (shape[0], bits))
            basis /= np.sqrt((basis**2).sum(axis=1, keepdims=True) * size)
            scale = np.ones(shape[0], np.float32)
        offsets = self.rng.normal(size=shape[0]) * 0.3 / np.sqrt(size) if offset else np.zeros(shape[0])
        biases = self.rng.normal(size=shape[0]) * 0.3 if bias else np.zeros(shape[0])
        arrays = {
            "planes": pack_planes(self.rng.integers(0, 2, (shape[0], bits, size))),
            "basis": basis.astype(np.float32),
            "offset": offsets.astype(np.float32),
            "bias": biases.astype(np.float32),
            "scale": scale,
        }
        return [self.constant(label, array) for label, array in arrays.items()]

    # ------------------------------------------------------------------ 8-bit and float operators

    def quantize8(self, dtype: str = "uint8", *, zero_point: int | None = None, scale: float = 0.03) -> Builder:
        """QuantizeLinear and DequantizeLinear, per tensor; the default zero point is the middle of the range."""
        middle = 128 if dtype == "uint8" else 0
        point = np.asarray(middle if zero_point is None else zero_point, dtype=dtype)
        names = [self.constant("scale", np.float32(scale)), self.constant("zero_point", point)]
        self.node("QuantizeLinear", [self.value, *names], self.shape)
        return self.node("DequantizeLinear", [self.value, *names], self.shape)

    def conv8(
        self,
        channels: int,
        *,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        pads: int | tuple[int, int, int, int] | None = None,
        dilation: int | tuple[int, int] = 1,
        group: int = 1,
    ) -> Builder:
        """Conv with a bias and int8 weights through DequantizeLinear, per output channel."""
        geometry = _geometry(kernel, stride, pads, dilation)
        shape = (channels, self.shape[0] // group, *geometry["kernel_shape"])
        return self._conv(self._int8_weights(shape), channels, group, geometry)

    def conv_float(
        self,
        channels: int,
        *,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        pads: int | tuple[int, int, int, int] | None = None,
        dilation: int | tuple[int, int] = 1,
        group: int = 1,
    ) -> Builder:
        """Conv with a bias and float weights."""
        geometry = _geometry(kernel, stride, pads, dilation)
        shape = (channels, self.shape[0] // group, *geometry["kernel_shape"])
        weights = self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        return self._conv(self.constant("weight", weights.astype(np.float32)), channels, group, geometry)

    def gemm8(self, channels: int) -> Builder:
        """Gemm (transB=1) with a bias and int8 weights through DequantizeLinear, per output channel."""
        return self._gemm(self._int8_weights((channels, self.shape[0])), channels)

    def gemm_float(self, channels: int) -> Builder:
        """Gemm (transB=1) with a bias and float weights."""
        weights = self.rng.normal(size=(channels, self.shape[0])) / np.sqrt(self.shape[0])
        return self._gemm(self.constant("weight", weights.astype(np.float32)), channels)

    def _conv(self, weight: str, channels: int, group: int, geometry: dict[str, list[int]]) -> Builder:
        inputs = [self.value, weight, self.constant("bias", self._normal(channels) * np.float32(0.3))]
        return self.node("Conv", inputs, (channels, *_output_size(self.shape, **geometry)), group=group, **geometry)

    def _gemm(self, weight: str, channels: int) -> Builder:
        bias = self.constant("bias", self._normal(channels) * np.float32(0.3))
        return self.node("Gemm", [self.value, weight, bias], (channels,), transB=1)

    def _int8_weights(self, shape: Shape) -> str:
        values = self.constant("weight", self.rng.integers(-127, 128, shape).astype(np.int8))
        scale = self.rng.uniform(0.7, 1.3, shape[0]) / (73 * np.sqrt(np.prod(shape[1:])))
        zeros = self.constant("zero_point", np.zeros(shape[0], np.int8))
        here, here_shape = self.value, self.shape
        self.node(
            "DequantizeLinear", [values, self.constant("scale", scale.astype(np.float32)), zeros], shape[1:], axis=0
        )
        weight = self.value
        self.value, self.shape = here, here_shape
        return weight

    # ------------------------------------------------------------------ the rest

    def batch_norm(self) -> Builder:
        """BatchNormalization; one channel in four has a negative scale."""
        channels = self.shape[0]
        scale = self.rng.uniform(0.6, 1.4, channels) * self.rng.choice([-1, 1, 1, 1], channels)
        variance = self.rng.uniform(0.6, 1.4, channels)
        arrays = (scale, self._normal(channels) * 0.3 + 0.4, self._normal(channels) * 0.3, variance)
        names = [self.constant("bn", np.asarray(array, np.float32)) for array in arrays]
        return self.node("BatchNormalization", [self.value, *names], self.shape, epsilon=1e-5)

    def relu(self) -> Builder:
        """Relu."""
        return self.node("Relu", [self.value], self.shape)

    def activation(self, op_type: str, **attributes: float) -> Builder:
        """HardSwish, HardSigmoid, LeakyRelu, Sigmoid, Tanh, or PRelu with a slope per channel."""
        names = []
        if op_type == "PRelu":
            slopes = self.rng.uniform(0.05, 0.5, (self.shape[0], *[1] * (len(self.shape) - 1)))
            names = [self.constant("slope", slopes.astype(np.float32))]
        return self.node(op_type, [self.value, *names], self.shape, **attributes)

    def multiply(self, other: str) -> Builder:
        """Multiply by the earlier value `other`, of the same shape or (C, 1, 1)."""
        return self.node("Mul", [self.value, other], self.shape)

    def clip(self, low: float, high: float) -> Builder:
        """Clip between two constants."""
        bounds = [self.constant("bound", np.float32(bound)) for bound in (low, high)]
        return self.node("Clip", [self.value, *bounds], self.shape)

    def max_pool(self, kernel: int = 2, stride: int = 2, pads: int = 0) -> Builder:
        """MaxPool."""
        return self._pool("MaxPool", kernel, stride, pads)

    def average_pool(self, kernel: int = 2, stride: int = 2, pads: int = 0, count_include_pad: int = 0) -> Builder:
        """AveragePool."""
        return self._pool("AveragePool", kernel, stride, pads, count_include_pad=count_include_pad)

    def _pool(self, op_type: str, kernel: int, stride: int, pads: int, **attributes: int) -> Builder:
        geometry = _geometry(kernel, stride, pads, 1)
        size = _output_size(self.shape, **geometry)
        del geometry["dilations"]
        return self.node(op_type, [self.value], (self.shape[0], *size), **geometry, **attributes)

    def global_average_pool(self) -> Builder:
        """GlobalAveragePool; the samples become (C, 1, 1)."""
        return self.node("GlobalAveragePool", [self.value], (self.shape[0], 1, 1))

    def flatten(self) -> Builder:
        """Flatten to (C*H*W,)."""
        return self.node("Flatten", [self.value], (int(np.prod(self.shape)),), axis=1)

    def add(self, other: str) -> Builder:
        """Add the earlier value `other`, of the same shape."""
        return self.node("Add", [self.value, other], self.shape)

    def concat(self, other: str) -> Builder:
        """Concatenate with the earlier value `other` along the channels."""
        channels = self.shape[0] + self.shapes[other][0]
        return self.node("Concat", [self.value, other], (channels, *self.shape[1:]), axis=1)

    def per_channel(self, op_type: str) -> Builder:
        """Add, Sub, Mul or Div with a constant per channel."""
        values = self.rng.uniform(0.5, 1.5, (1, self.shape[0], *[1] * (len(self.shape) - 1))).astype(np.float32)
        return self.node(op_type, [self.value, self.constant("constant", values)], self.shape)

    def softmax(self) -> Builder:
        """Softmax over the channels."""
        return self.node("Softmax", [self.value], self.shape, axis=1)

    def _normal(self, size: int) -> np.ndarray:
        return self.rng.normal(size=size).astype(np.float32)

    def _info(self, name: str, shape: Shape) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [self.batch, *shape])


def conv_model(
    rng: np.random.Generator,
    *,
    weight_bits: int = 2,
    act_bits: int | None = 2,
    channels: tuple[int, int] = (8, 16),
    size: tuple[int, int] = (9, 9),
    kernel: int | tuple[int, int] = 3,
    stride: int | tuple[int, int] = 1,
    pads: int | tuple[int, int, int, int] | None = None,
    dilation: int | tuple[int, int] = 1,
    group: int = 1,
    integer: bool = False,
    weight_offset: bool = False,
    act_offset: float = 0.0,
    batch_norm: bool = False,
    relu: bool = False,
    max_pool: bool = False,
    residual: bool = False,
    out_bits: int | None = None,
    opset: int = 18,
    batch: int | str = "N",
) -> onnx.ModelProto:
    """One LQConv and what may surround it, in this order: quantizer, conv, batch norm, add, ReLU, max-pool, quantizer.

    Args:
        rng: source of every random number.
        weight_bits: Kw.
        act_bits: Ka; None for a float input (weight-only).
        channels: in and out.
        size: height and width of the input.
        kernel: as `stride` and `dilation` a number or one per axis.
        stride: see `kernel`.
        pads: a number or (top, left, bottom, right); None keeps the size at stride 1.
        dilation: see `kernel`.
        group: groups.
        integer: integer bases.
        weight_offset: w0 is not 0.
        act_offset: a0.
        batch_norm: a BatchNormalization follows.
        relu: a ReLU follows.
        max_pool: a 2x2 max-pool follows.
        residual: the input, through a float 1x1 Conv of the same stride and size, is added.
        out_bits: a quantizer follows, of so many bits.
        opset: of the standard operators.
        batch: dimension 0.
    """
    builder = Builder(rng, (channels[0], *size), opset=opset, batch=batch)
    if act_bits is not None:
        builder.quantize(act_bits, integer=integer, offset=act_offset)
    builder.conv(
        channels[1],
        bits=weight_bits,
        kernel=kernel,
        stride=stride,
        pads=pads,
        dilation=dilation,
        group=group,
        integer=integer,
        offset=weight_offset,
    )
    if batch_norm:
        builder.batch_norm()
    if residual:
        main = builder.value
        builder.at("x").conv_float(channels[1], kernel=1, stride=stride, pads=0).add(main)
    if relu:
        builder.relu()
    if max_pool:
        builder.max_pool()
    if out_bits is not None:
        builder.quantize(out_bits, integer=integer)
    return builder.build()


def linear_model(
    rng: np.random.Generator,
    *,
    weight_bits: int = 2,
    act_bits: int | None = 2,
    features: tuple[int, int] = (37, 16),
    integer: bool = False,
    weight_offset: bool = False,
    act_offset: float = 0.0,
    relu: bool = False,
    out_bits: int | None = None,
    opset: int = 18,
    batch: int | str = "N",
) -> onnx.ModelProto:
    """One LQLinear between optional quantizers; arguments as in `conv_model`."""
    builder = Builder(rng, features[:1], opset=opset, batch=batch)
    if act_bits is not None:
        builder.quantize(act_bits, integer=integer, offset=act_offset)
    builder.linear(features[1], bits=weight_bits, integer=integer, offset=weight_offset)
    if relu:
        builder.relu()
    if out_bits is not None:
        builder.quantize(out_bits, integer=integer)
    return builder.build()


def chain_model(
    rng: np.random.Generator,
    *,
    channels: Sequence[int] = (8, 16, 12, 16),
    size: tuple[int, int] = (9, 9),
    weight_bits: int = 2,
    act_bits: int = 2,
    integer: bool = False,
) -> onnx.ModelProto:
    """A chain of quantizer, LQConv, batch norm, ReLU; codes travel between the layers."""
    builder = Builder(rng, (channels[0], *size))
    for width in channels[1:]:
        builder.quantize(act_bits, integer=integer).conv(width, bits=weight_bits, integer=integer).batch_norm().relu()
    return builder.build()


def residual_model(
    rng: np.random.Generator,
    *,
    channels: int = 8,
    size: tuple[int, int] = (8, 8),
    weight_bits: int = 2,
    act_bits: int = 2,
    integer: bool = False,
) -> onnx.ModelProto:
    """Two ResNet basic blocks: one with the identity, one of stride 2 with a low-bit 1x1 convolution beside it."""
    builder = Builder(rng, (channels, *size))
    options = {"bits": weight_bits, "integer": integer}
    for width, stride in ((channels, 1), (2 * channels, 2)):
        entry = builder.value
        builder.quantize(act_bits, integer=integer)
        codes = builder.value
        builder.conv(width, stride=stride, **options).batch_norm().relu()
        builder.quantize(act_bits, integer=integer).conv(width, **options).batch_norm()
        main = builder.value
        if stride == 1:
            builder.add(entry).relu()
        else:
            builder.at(codes).conv(width, kernel=1, stride=stride, pads=0, **options).batch_norm().add(main).relu()
    return builder.build()


def classifier_model(
    rng: np.random.Generator,
    *,
    shape: Shape = (1, 12, 12),
    channels: Sequence[int] = (8, 16),
    classes: int = 10,
    weight_bits: int = 2,
    act_bits: int = 2,
    integer: bool = True,
    edges: str = "int8",
    batch: int | str = "N",
) -> onnx.ModelProto:
    """A small classifier: stem, low-bit blocks with max-pool, global pool and a linear layer.

    Args:
        rng: source of every random number.
        shape: (C, H, W) of the input.
        channels: of the stem, then of each low-bit block.
        classes: outputs.
        weight_bits: Kw.
        act_bits: Ka.
        integer: integer bases.
        edges: first and last layer: "int8" (QDQ) or "float".
        batch: dimension 0.
    """
    builder = Builder(rng, shape, batch=batch)
    stem = builder.quantize8().conv8 if edges == "int8" else builder.conv_float
    stem(channels[0]).batch_norm().relu()
    for width in channels[1:]:
        builder.quantize(act_bits, integer=integer).conv(width, bits=weight_bits, integer=integer)
        builder.batch_norm().relu().max_pool()
    builder.global_average_pool().flatten()
    last = builder.quantize8(zero_point=0).gemm8 if edges == "int8" else builder.gemm_float
    return last(classes).build()


def open_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """Forget the declared sizes of the outputs, which a test is about to change; in place."""
    for value in model.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim[1:], start=1):
            dim.Clear()
            dim.dim_param = f"open{axis}"
    return model


def random_input(rng: np.random.Generator, model: onnx.ModelProto, batch: int = 2) -> dict[str, np.ndarray]:
    """Normal float32 arrays for every input; `batch` fills an open dimension 0."""
    feeds = {}
    for value in model.graph.input:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.normal(size=[dims[0] or batch, *dims[1:]]).astype(np.float32)
    return feeds


def run_onnxruntime(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Outputs of stock ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def short_scale(values: object) -> np.ndarray:
    """Round positive numbers to float32 with the few significant bits that an integer basis allows."""
    mantissa, exponent = np.frexp(np.asarray(values, np.float64))
    return np.ldexp(np.round(np.ldexp(mantissa, SCALE_BITS)), exponent - SCALE_BITS).astype(np.float32)


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)


def _geometry(
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int],
    pads: int | tuple[int, int, int, int] | None,
    dilation: int | tuple[int, int],
) -> dict[str, list[int]]:
    sizes, steps = _pair(kernel), _pair(dilation)
    if pads is None:
        span = [step * (size - 1) for size, step in zip(sizes, steps, strict=True)]
        padding = [span[0] // 2, span[1] // 2, span[0] - span[0] // 2, span[1] - span[1] // 2]
    else:
        padding = [pads] * 4 if isinstance(pads, int) else list(pads)
    return {"kernel_shape": sizes, "strides": _pair(stride), "pads": padding, "dilations": steps}


def _output_size(
    shape: Shape, kernel_shape: list[int], strides: list[int], pads: list[int], dilations: list[int]
) -> tuple[int, int]:
    size = [
        (shape[axis + 1] + pads[axis] + pads[axis + 2] - dilations[axis] * (kernel_shape[axis] - 1) - 1)
        // strides[axis]
        + 1
        for axis in (0, 1)
    ]
    return size[0], size[1]
