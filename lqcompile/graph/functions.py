"""Function bodies in standard operators: what lets stock ONNX Runtime run a file of the domain ``lqcompile``.

Bodies are flat (onnx drops nested functions and loses attribute references in them) and use only operators of opset 13,
so one text serves every supported opset; a function's opset must equal its model's.

`LQQuantize` has one body per number of bits, told apart by ``overload`` (IR 10): a chain of Greater and Where. It picks
levels without arithmetic, and ONNX Runtime 1.31 runs it 33, 13, 6 and 3 times faster for 1 to 4 bits than the one body
that would serve every K (Greater, ReduceSum, Gather; float32[1,64,56,56], one thread).
"""

from __future__ import annotations

import onnx
import onnx.parser

from lqcompile.encoding import MAX_BITS
from lqcompile.errors import ModelError
from lqcompile.graph.schema import ATTRIBUTES, CONV, DOMAIN, LINEAR, OPERATORS, QUANTIZE, VERSION

MIN_IR_VERSION = 10
"""First IR version with ``overload``."""

_WEIGHTS = """
  shift_left = Constant <value = uint8[8] {7, 6, 5, 4, 3, 2, 1, 0}> ()
  shift_right = Constant <value = uint8[1] {7}> ()
  last = Constant <value = int64[1] {-1}> ()
  zero = Constant <value = int64[1] {0}> ()
  one = Constant <value = int64[1] {1}> ()
  two = Constant <value = int64[1] {2}> ()
  four = Constant <value = int64[1] {4}> ()
  rows = Constant <value = int64[3] {0, 0, -1}> ()
  per_row = Constant <value = int64[2] {-1, 1}> ()
  float_one = Constant <value = float {1.0}> ()
  float_two = Constant <value = float {2.0}> ()
  shape = Constant <value_ints: ints = @weight_shape> ()
  bytes = Unsqueeze (planes, last)
  shifted = BitShift <direction = "LEFT"> (bytes, shift_left)
  bits = BitShift <direction = "RIGHT"> (shifted, shift_right)
  padded = Reshape (bits, rows)
  inner = Slice (shape, one, four)
  length = ReduceProd <keepdims = 1> (inner)
  cut = Slice (padded, zero, length, two)
  as_float = Cast <to = 1> (cut)
  twice = Mul (as_float, float_two)
  signs = Sub (twice, float_one)
  columns = Unsqueeze (basis, last)
  terms = Mul (signs, columns)
  total = ReduceSum <keepdims = 0> (terms, one)
  scales = Reshape (scale, per_row)
  offsets = Reshape (offset, per_row)
  scaled = Mul (total, scales)
  flat = Add (scaled, offsets)
  weight = Reshape (flat, shape)
"""

_CONV = """
  y = Conv <strides: ints = @strides, pads: ints = @pads, dilations: ints = @dilations, group: int = @group>
      (x, weight, bias)
"""

_LINEAR = """
  transposed = Transpose <perm = [1, 0]> (weight)
  product = MatMul (x, transposed)
  y = Add (product, bias)
"""


def overload(op_type: str, bits: int) -> str:
    """Value of a node's ``overload``: ``bits2`` for an `LQQuantize` of 2 bits, empty for the other operators."""
    return f"bits{bits}" if op_type == QUANTIZE else ""


def functions(opset: int) -> list[onnx.FunctionProto]:
    """Bodies of all operators: `LQConv`, `LQLinear`, and `LQQuantize` for 1 to 4 bits.

    Args:
        opset: of the standard operators in the model, at least 13.
    """
    bodies = [(CONV, "", _WEIGHTS + _CONV), (LINEAR, "", _WEIGHTS + _LINEAR)]
    bodies += [(QUANTIZE, overload(QUANTIZE, bits), _quantize_body(bits)) for bits in range(1, MAX_BITS + 1)]
    return [_function(opset, *body) for body in bodies]


def attach(model: onnx.ModelProto) -> None:
    """Make a model of plain nodes runnable: set ``overload``, the opset import and the bodies that are used, in place.

    Bodies of the domain that the model already has are replaced.

    Raises:
        ModelError: the model has no standard opset, or an LQQuantize whose thresholds are not an initializer of a
            length that the contract knows.
    """
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None)
    if opset is None:
        raise ModelError("model: found no opset import of the standard domain, expected one; export the model again")
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    used = set()
    for node in model.graph.node:
        if node.domain != DOMAIN:
            continue
        if node.op_type == QUANTIZE:
            node.overload = overload(QUANTIZE, _quantize_bits(node, sizes))
        used.add((node.op_type, node.overload))
    kept = [function for function in model.functions if function.domain != DOMAIN]
    del model.functions[:]
    model.functions.extend(kept)
    model.functions.extend(body for body in functions(opset) if (body.name, body.overload) in used)
    if used and not any(entry.domain == DOMAIN for entry in model.opset_import):
        model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, VERSION))
    model.ir_version = max(model.ir_version, MIN_IR_VERSION)


def _quantize_bits(node: onnx.NodeProto, sizes: dict[str, tuple[int, ...]]) -> int:
    found = sizes.get(node.input[1])
    for bits in range(1, MAX_BITS + 1):
        if found == ((1 << bits) - 1,):
            return bits
    shape = "no initializer" if found is None else f"shape {list(found)}"
    raise ModelError(
        f"node '{node.name}' ({DOMAIN}::{QUANTIZE}): thresholds have {shape}, expected a constant of shape [2^K-1] "
        f"with K in 1..{MAX_BITS}; export the model again"
    )


def _quantize_body(bits: int) -> str:
    count = (1 << bits) - 1
    lines = ["i0 = Constant <value = int64 {0}> ()", "y0 = Gather <axis = 0> (levels, i0)"]
    for i in range(count):
        chosen = "y" if i == count - 1 else f"y{i + 1}"
        lines += [
            f"i{i + 1} = Constant <value = int64 {{{i + 1}}}> ()",
            f"threshold{i} = Gather <axis = 0> (thresholds, i{i})",
            f"level{i + 1} = Gather <axis = 0> (levels, i{i + 1})",
            f"above{i} = Greater (x, threshold{i})",
            f"{chosen} = Where (above{i}, level{i + 1}, y{i})",
        ]
    return "".join(f"  {line}\n" for line in lines)


def _function(opset: int, name: str, label: str, body: str) -> onnx.FunctionProto:
    attributes = ", ".join(ATTRIBUTES[name])
    parsed = onnx.parser.parse_function(
        f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>\n'
        f"{name} <{attributes}> ({', '.join(OPERATORS[name])}) => (y)\n{{{body}}}"
    )
    parsed.overload = label
    return parsed
