"""Explicit padding for convolutions and pools of the standard domain, whatever their attributes ask for.

    auto_pad=SAME_UPPER, SAME_LOWER, VALID --> pads
    ceil_mode=1                            --> pads that reach to the end of the last window

The plan knows pads only.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir

from lqcompile.graph.contract import read_geometry
from lqcompile.graph.nodes import int_attribute, sample_shape, unsupported
from lqcompile.graph.plan import Geometry

Pads = tuple[int, int, int, int]


def read_padded_geometry(node: onnx_ir.Node, kernel: tuple[int, int]) -> Geometry:
    """Geometry of a Conv or pooling node, every padding explicit.

    Args:
        node: its input has rank 4 and a known size.
        kernel: (kh, kw) of the weights or the window.

    Raises:
        ModelError: an attribute has the wrong length or a value out of range.
        UnsupportedError: `auto_pad` is unknown, the window does not fit into the image, or an average pool counts
            padding that ceil_mode adds.
    """
    size = sample_shape(node.inputs[0])[1:]
    geometry = _pad_automatically(node, read_geometry(node, kernel), size)
    if int_attribute(node, "ceil_mode", 0):
        pads = _ceil(geometry, size)
        if pads != geometry.pads and counts_padding(node, kernel):
            raise unsupported(
                node,
                "ceil_mode=1 with a partial last window, count_include_pad=1 and pads",
                "at most two of the three",
                "export with count_include_pad=False",
            )
        geometry = replace(geometry, pads=pads)
    if min(geometry.output_size(*size)) < 1:
        raise unsupported(
            node,
            f"a window of {list(kernel)} on an image of {list(size)}",
            "one that fits inside image and padding",
            "export with a larger example",
        )
    return geometry


def counts_padding(node: onnx_ir.Node, kernel: tuple[int, int]) -> bool:
    """Whether an AveragePool divides by padding too, which what ceil_mode adds to the image is not."""
    padded = _pad_automatically(node, read_geometry(node, kernel), sample_shape(node.inputs[0])[1:])
    return any(padded.pads) and bool(int_attribute(node, "count_include_pad", 0))


def _pad_automatically(node: onnx_ir.Node, geometry: Geometry, size: tuple[int, ...]) -> Geometry:
    """``auto_pad`` resolved."""
    attribute = node.attributes.get("auto_pad")
    mode = "NOTSET" if attribute is None else attribute.as_string()
    if mode == "VALID":
        return replace(geometry, pads=(0, 0, 0, 0))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        if geometry.dilations != (1, 1):  # ONNX Runtime 1.31 refuses it
            raise unsupported(node, f"auto_pad={mode} with dilations", "pads", "export with explicit pads")
        return replace(geometry, pads=_same(geometry, size, upper=mode == "SAME_UPPER"))
    if mode != "NOTSET":
        raise unsupported(node, f"auto_pad={mode}", "NOTSET, VALID, SAME_UPPER or SAME_LOWER", "export the model again")
    return geometry


def _spans(geometry: Geometry) -> tuple[int, int]:
    """Rows and columns that a window covers."""
    rows, columns = (step * (taps - 1) + 1 for step, taps in zip(geometry.dilations, geometry.kernel, strict=True))
    return rows, columns


def _same(geometry: Geometry, size: tuple[int, ...], *, upper: bool) -> Pads:
    """Padding for outputs of ``ceil(size / stride)``; an odd pixel goes to the end (`upper`) or to the begin."""
    begins, ends = [], []
    for pixels, span, stride in zip(size, _spans(geometry), geometry.strides, strict=True):
        total = max((-(-pixels // stride) - 1) * stride + span - pixels, 0)
        begin = total // 2 if upper else total - total // 2
        begins.append(begin)
        ends.append(total - begin)
    return begins[0], begins[1], ends[0], ends[1]


def _ceil(geometry: Geometry, size: tuple[int, ...]) -> Pads:
    """Padding with which the last window, if it starts on the image or the padding before it, is whole."""
    ends = []
    for axis, (pixels, span, stride) in enumerate(zip(size, _spans(geometry), geometry.strides, strict=True)):
        begin, end = geometry.pads[axis], geometry.pads[axis + 2]
        last = -(-(pixels + begin + end - span) // stride)
        if last * stride >= pixels + begin:
            last -= 1
        ends.append(max(end, last * stride + span - pixels - begin))
    return geometry.pads[0], geometry.pads[1], ends[0], ends[1]
