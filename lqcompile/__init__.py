"""Compiler for networks of learned low-bit codes (LQ-Nets).

The names below are loaded on first use (PEP 562), so that ``import lqcompile`` costs nothing: building needs TVM and
ONNX but never torch, training needs torch but never TVM, and running needs TVM's runtime alone.
"""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from lqcompile.errors import LQCompileError

if TYPE_CHECKING:
    from lqcompile.build import build as build
    from lqcompile.nn import LQActivation as LQActivation
    from lqcompile.nn import LQConv2d as LQConv2d
    from lqcompile.nn import LQLinear as LQLinear
    from lqcompile.nn import calibrate as calibrate
    from lqcompile.nn import export as export
    from lqcompile.nn import quantize as quantize
    from lqcompile.nn import snap as snap
    from lqcompile.runtime import load as load
    from lqcompile.verify import verify as verify

    __version__: str

_HOMES = {
    "build": "lqcompile.build",
    "load": "lqcompile.runtime",
    "verify": "lqcompile.verify",
    "LQActivation": "lqcompile.nn",
    "LQConv2d": "lqcompile.nn",
    "LQLinear": "lqcompile.nn",
    "calibrate": "lqcompile.nn",
    "export": "lqcompile.nn",
    "quantize": "lqcompile.nn",
    "snap": "lqcompile.nn",
}

__all__ = ["LQCompileError", "__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Load a public name from the module that defines it, once."""
    if name == "__version__":
        from importlib.metadata import version  # half of the time that importing this package would take

        value: Any = version("lqcompile")
    elif name in _HOMES:
        home = _HOMES[name]
        try:
            value = getattr(importlib.import_module(home), name)
        except ModuleNotFoundError as error:
            if home == "lqcompile.nn" and error.name == "torch":
                raise LQCompileError(
                    f"lqcompile.{name}: found no torch, expected the training extra; pip install 'lqcompile[train]'"
                ) from error
            raise
    else:
        raise AttributeError(f"module 'lqcompile' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(types.ModuleType):
    """Keeps ``lqcompile.build`` the function once the module ``lqcompile.build`` is imported; likewise ``verify``.

    The import system binds a submodule to its name in the package; ``from lqcompile.build import BuildReport`` would
    otherwise change what ``lqcompile.build`` means.
    """

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
