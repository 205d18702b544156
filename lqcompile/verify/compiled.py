"""What `verify` needs of a compiled model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class CompiledModel(Protocol):
    """A compiled model that also runs region by region.

    Arrays are in their logical encoding: NCHW, float32, uint8 level indices, or 8-bit codes.
    """

    @property
    def plan_values(self) -> set[str]:
        """Names of the values that it can read and write."""

    def run(self, inputs: Mapping[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[Any]]:
        """Graph outputs by name, from float32[N, ...] by graph input."""

    def run_region(self, name: str, values: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        """Outputs of one region by value name, from what it reads by value name."""

    def run_sums(self, name: str, values: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.integer]:
        """Integers of one exact contraction: T [N, O, OH, OW] or S_ij [N, Kw, Ka, O, OH, OW]."""
