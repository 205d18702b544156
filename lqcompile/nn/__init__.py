"""The training front-end (PyTorch): quantizers, layers, conversion and export."""

from lqcompile.nn.calibrate import calibrate
from lqcompile.nn.convert import quantize, snap
from lqcompile.nn.export import export
from lqcompile.nn.int8 import Int8Conv2d, Int8Linear
from lqcompile.nn.layers import LQConv2d, LQLinear
from lqcompile.nn.quantizer import LQActivation

__all__ = [
    "Int8Conv2d",
    "Int8Linear",
    "LQActivation",
    "LQConv2d",
    "LQLinear",
    "calibrate",
    "export",
    "quantize",
    "snap",
]
