"""A board as a place to profile an artifact (`lqcompile.profiling.measure.Place`): the loop runs there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from lqcompile.profiling.here import refuse_emulator
from lqcompile.profiling.machine import Machine
from lqcompile.profiling.passes import Readings
from lqcompile.rpc.device import Device, Progress
from lqcompile.rpc.model import RemoteModel

_MODEL, _PROBES = "profiled", "probes.so"


class BoardPlace:
    """An artifact on a board.

    Args:
        device: the board.
        artifact: here; it is uploaded.
        inputs: name to array[N, ...]; the first sample counts.
        threads: that the artifact runs with.
        emulated: whether times are wanted even under an emulator.
        progress: called with what is being done and the part of it.

    Raises:
        DeviceError: the board is an emulator, and its times are not wanted, or it fails.
        ArtifactError: the artifact is not for the board's CPU.
    """

    def __init__(
        self,
        device: Device,
        artifact: Path,
        inputs: Mapping[str, npt.NDArray[Any]],
        *,
        threads: int,
        emulated: bool,
        progress: Progress,
    ) -> None:
        self.name = str(device)
        self.info: Mapping[str, Any] = device.info
        refuse_emulator(self.name, self.info, emulated=emulated)
        self._device, self._inputs, self._emulated = device, inputs, emulated
        self._progress = progress
        self.model = RemoteModel(device, artifact, name=_MODEL, threads=threads, progress=progress)

    def machine(self, library: bytes, threads: int) -> Machine:
        """Measure the board."""
        self._device.upload(_PROBES, library, self._progress)
        options = {"file": _PROBES, "threads": threads, "emulated": self._emulated}
        answer, _ = self._device.call("measure_machine", options)
        return Machine.from_json(answer["machine"])

    def passes(self, seconds: float, most: int) -> Readings:
        """Time passes for about so long."""
        options = {"model": _MODEL, "seconds": seconds, "most": most, "emulated": self._emulated}
        first = {name: array[:1] for name, array in self._inputs.items()}
        answer, _ = self._device.call("time_passes", options, first)
        return Readings(**answer["readings"])

    def conditions(self) -> dict[str, Any]:
        """The state of the board now."""
        info, _ = self._device.call("info")
        return {key: info[key] for key in _CONDITIONS}


_CONDITIONS = ("clock_mhz", "governor", "temperature_c", "throttled")
