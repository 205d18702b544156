"""Conversion of a torch model in place: by module type, from data, and to integer bases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Literal, TypeVar

from torch import nn

from lqcompile.encoding import MAX_ACTIVATION_TOTAL, MAX_WEIGHT_TOTAL
from lqcompile.errors import QuantizationError
from lqcompile.nn.int8 import Int8Activation, Int8Conv2d, Int8Linear
from lqcompile.nn.layers import LQConv2d, LQLinear
from lqcompile.nn.methods import ActivationQuantizer, MethodName, WeightQuantizer, find_method
from lqcompile.nn.quantizer import LevelQuantizer

ModelT = TypeVar("ModelT", bound=nn.Module)


def quantize(
    model: ModelT,
    weight_bits: int = 2,
    act_bits: int | None = 2,
    skip: Sequence[str] = ("first", "last"),
    edge_bits: Literal[8] | None = None,
    basis: Literal["float", "int8"] = "float",
    method: MethodName = "lq",
) -> ModelT:
    """Replace every Conv2d and Linear by its quantized layer, in place; parameters are shared, not copied.

    Each quantized layer owns the quantizer of its input, which follows the ReLU of the model and does not replace it.
    Subclasses of Conv2d and Linear are left alone, for their forward pass is unknown.

    Args:
        model: any module that contains a Conv2d or Linear.
        weight_bits: 1 to 4.
        act_bits: 1 to 4, or None for float activations.
        skip: layers to leave in float: "first" and "last" (in order of registration), "depthwise" (as many groups as
            input channels), names as in ``model.named_modules()``, or patterns of such names (``"head.*"``).
        edge_bits: 8 turns the layers meant by "first" and "last" into 8-bit ones; None leaves them in float.
        basis: "int8" requires `snap` (or `calibrate`, which snaps) before export.
        method: "lq" for learned codes; "dorefa-pact" and "lsq" for uniform grids to compare with, trained by the same
            loop (`lqcompile.nn.dorefa`, `lqcompile.nn.lsq`). Those have integer bases throughout and need no `snap`,
            except weights of "lsq" from 2 bits on, whose grid has an offset: they have float bases.

    Returns:
        `model`.

    Raises:
        QuantizationError: bits out of range, a name in `skip` that matches no layer, nothing to quantize, an option
            that does not exist, padding that is not with zeros, or integer bases of a method that has none.
    """
    find_method(method)
    if (method, basis) == ("lsq", "int8") and weight_bits > 1:
        raise QuantizationError(
            f"basis: found 'int8' with method='lsq' and weight_bits={weight_bits}, expected 'float'; "
            "its grid of weights has an offset, so leave basis out"
        )
    _check_option("basis", basis, ("float", "int8"))
    _check_option("edge_bits", edge_bits, (None, 8))
    layers = {name: module for name, module in model.named_modules() if type(module) in (nn.Conv2d, nn.Linear)}
    if not layers or "" in layers:
        raise QuantizationError(
            f"model {type(model).__name__}: found no Conv2d or Linear inside it, expected at least one; "
            "wrap a single layer in nn.Sequential"
        )
    edges, kept = _skipped(layers, skip)
    replacements: dict[nn.Module, nn.Module] = {}
    for name, layer in layers.items():
        if name in edges and edge_bits == 8:
            replacements[layer] = _int8_layer(layer)
        elif name not in edges and name not in kept:
            replacements[layer] = _lq_layer(name, layer, weight_bits, act_bits, method)
    for parent in list(model.modules()):
        for child_name, child in list(parent.named_children()):
            if child in replacements:
                setattr(parent, child_name, replacements[child])
    for quantizer in quantizers(model):
        quantizer.integer_required = basis == "int8"
    return model


def snap(model: ModelT, weight_limit: int = MAX_WEIGHT_TOTAL, act_limit: int = MAX_ACTIVATION_TOTAL) -> ModelT:
    """Snap every basis to integers times one scale and freeze it, in place; train on to win back the loss.

    The input ranges of 8-bit layers freeze too. Uniform quantizers have nothing to snap: they are left as they are.

    Args:
        model: a quantized model.
        weight_limit: largest sum of magnitudes of a weight basis, at most 127. Smaller ones suit narrow accumulators.
        act_limit: largest sum of an activation basis, at most 255.

    Returns:
        `model`.

    Raises:
        QuantizationError: a limit out of range, or nothing quantized in `model`.
        EncodingError: a basis is not finite, or a limit is below the number of bits.
    """
    for name, limit, most in (
        ("weight_limit", weight_limit, MAX_WEIGHT_TOTAL),
        ("act_limit", act_limit, MAX_ACTIVATION_TOTAL),
    ):
        if not 1 <= limit <= most:
            raise QuantizationError(f"{name}: found {limit}, expected 1 to {most}")
    if not any(isinstance(module, ActivationQuantizer | WeightQuantizer) for module in model.modules()):
        raise QuantizationError(f"model {type(model).__name__}: found no quantized layer; call quantize first")
    for quantizer in quantizers(model):
        quantizer.snap(weight_limit if quantizer.symmetric else act_limit)
    for module in model.modules():
        if isinstance(module, Int8Activation):
            module.frozen = True
    return model


def quantizers(model: nn.Module) -> Iterator[LevelQuantizer]:
    """Every quantizer with a learned basis in `model`."""
    return (module for module in model.modules() if isinstance(module, LevelQuantizer))


def _skipped(layers: dict[str, nn.Module], skip: Sequence[str]) -> tuple[set[str], set[str]]:
    """Names meant by "first" and "last", and names otherwise left in float."""
    names = list(layers)
    edges: set[str] = set()
    kept: set[str] = set()
    for entry in (skip,) if isinstance(skip, str) else skip:
        if entry == "first":
            edges.add(names[0])
        elif entry == "last":
            edges.add(names[-1])
        elif entry == "depthwise":
            kept |= {name for name, layer in layers.items() if _is_depthwise(layer)}
        else:
            matched = {name for name in names if fnmatchcase(name, entry)}
            if not matched:
                raise QuantizationError(f"skip: {entry!r} matches no layer; layers: {', '.join(names)}")
            kept |= matched
    return edges - kept, kept


def _is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


def _int8_layer(layer: nn.Module) -> nn.Module:
    return Int8Conv2d.from_float(layer) if isinstance(layer, nn.Conv2d) else Int8Linear.from_float(_linear(layer))


def _lq_layer(name: str, layer: nn.Module, weight_bits: int, act_bits: int | None, method: MethodName) -> nn.Module:
    try:
        if isinstance(layer, nn.Conv2d):
            return LQConv2d.from_float(layer, weight_bits, act_bits, method)
        return LQLinear.from_float(_linear(layer), weight_bits, act_bits, method)
    except QuantizationError as error:
        raise QuantizationError(f"layer {name!r}: {error}") from error


def _linear(layer: nn.Module) -> nn.Linear:
    if not isinstance(layer, nn.Linear):
        raise QuantizationError(f"{type(layer).__name__}: expected Conv2d or Linear")
    return layer


def _check_option(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise QuantizationError(f"{name}: found {value!r}, expected {' or '.join(repr(option) for option in allowed)}")
