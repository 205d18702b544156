"""The ways to quantize that `lqcompile.nn.quantize` knows, by name: the learned codes and the baselines beside them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from lqcompile.errors import QuantizationError
from lqcompile.nn.dorefa import DoReFaWeight, PACTActivation
from lqcompile.nn.lsq import LSQActivation, LSQWeight
from lqcompile.nn.quantizer import LQActivation, LQWeight

ActivationQuantizer = LQActivation | LSQActivation | PACTActivation
WeightQuantizer = LQWeight | LSQWeight | DoReFaWeight

MethodName = Literal["lq", "dorefa-pact", "lsq"]
"""Names that `quantize` takes."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A pair of quantizers.

    Args:
        activation: called with the bits.
        weight: called with the bits and the weight, float[O, ...].
    """

    activation: Callable[[int], ActivationQuantizer]
    weight: Callable[[int, Tensor], WeightQuantizer]


METHODS: dict[str, Method] = {
    "lq": Method(activation=LQActivation, weight=LQWeight),
    "dorefa-pact": Method(activation=PACTActivation, weight=DoReFaWeight),
    "lsq": Method(activation=LSQActivation, weight=LSQWeight),
}


def find_method(name: str) -> Method:
    """The method called `name`.

    Raises:
        QuantizationError: there is none.
    """
    if name not in METHODS:
        raise QuantizationError(f"method: found {name!r}, expected one of {', '.join(get_args(MethodName))}")
    return METHODS[name]
