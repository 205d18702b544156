"""Verification: is a compiled model equal to its ONNX file, layer by layer and end to end?"""

from lqcompile.verify.compiled import CompiledModel
from lqcompile.verify.prove import verify
from lqcompile.verify.report import Report

__all__ = ["CompiledModel", "Report", "verify"]
