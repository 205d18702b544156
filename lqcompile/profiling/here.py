"""This machine as a place to profile an artifact."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lqcompile import cpu
from lqcompile.conditions import conditions, emulator
from lqcompile.errors import DeviceError
from lqcompile.profiling.machine import Machine, measure_machine
from lqcompile.profiling.passes import Readings, time_passes
from lqcompile.runtime import CompiledModel

_PACKAGES = ("lqcompile", "apache-tvm", "numpy")


class Here:
    """This process.

    Args:
        model: loaded.
        inputs: name to array[N, ...]; the first sample counts.
        emulated: whether times are wanted even under an emulator.

    Raises:
        DeviceError: this is an emulator, and its times are not wanted.
    """

    name = "this machine"

    def __init__(self, model: CompiledModel, inputs: Mapping[str, npt.NDArray[Any]], *, emulated: bool) -> None:
        self._model, self._inputs = model, inputs
        machine = cpu.machine()
        self.info: Mapping[str, Any] = {
            "machine": machine,
            "system": cpu.system(),
            "cpu": cpu.cpu_name(),
            "features": sorted(cpu.cpu_features()),
            "cores": cpu.cores(),
            "emulator": emulator(machine),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        }
        refuse_emulator(self.name, self.info, emulated=emulated)

    def machine(self, library: bytes, threads: int) -> Machine:
        """Measure this machine."""
        with tempfile.TemporaryDirectory(prefix="lqcompile-") as folder:
            path = Path(folder) / "probes.so"
            path.write_bytes(library)
            return measure_machine(path, threads)

    def passes(self, seconds: float, most: int) -> Readings:
        """Time passes for about so long."""
        return time_passes(self._model, self._inputs, seconds=seconds, most=most)

    def conditions(self) -> dict[str, Any]:
        """The state of this machine now."""
        return conditions()


def refuse_emulator(place: str, info: Mapping[str, Any], *, emulated: bool) -> None:
    """Never report a time that was taken under emulation, unless it is asked for.

    Raises:
        DeviceError: the place is an emulator, and its times are not wanted.
    """
    if info["emulator"] is not None and not emulated:
        raise DeviceError(
            f"{place}: found {info['emulator']} emulation, expected hardware, for times under emulation mean nothing; "
            "profile on a real board, or give --emulated to see the report all the same"
        )
