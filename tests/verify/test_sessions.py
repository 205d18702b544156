"""The opened file computes what it says, not what ONNX Runtime's optimizers would make of it."""

import numpy as np
from models import Builder, random_input
from onnx import numpy_helper

from lqcompile.verify.sessions import open_session


def test_the_opened_file_keeps_its_float_biases() -> None:
    """Rounded to integers of the product of the scales, as an optimizer would have them, they move sums by 1e-5."""
    rng = np.random.default_rng(1)
    model = Builder(rng, (3, 6, 6)).quantize8().conv8(24).relu().quantize8().conv8(4).build()
    nodes = {node.op_type: node for node in reversed(model.graph.node)}
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    conv, image = nodes["Conv"], nodes["DequantizeLinear"]
    weight = next(node for node in model.graph.node if node.output[0] == conv.input[1])
    wanted = [conv.output[0], image.output[0], weight.output[0]]
    tensors = open_session(model, wanted).run(random_input(rng, model, batch=2))
    found, x, w = (tensors[name].astype(np.float64) for name in wanted)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    products = np.einsum("nchwij,ocij->nohw", windows, w)
    magnitude = np.einsum("nchwij,ocij->nohw", np.abs(windows), np.abs(w))
    bias = constants[conv.input[2]].astype(np.float64)[:, None, None]
    assert np.abs(bias).min() > 0
    assert (np.abs(found - products - bias) <= 29 * 2.0**-24 * (magnitude + np.abs(bias))).all()
