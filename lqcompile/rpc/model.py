"""A compiled model that runs on a board, used like one that runs here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.artifact import read_artifact, select_variant
from lqcompile.errors import ArtifactError
from lqcompile.inputs import check_inputs
from lqcompile.rpc.device import Device, Progress
from lqcompile.rpc.message import Array
from lqcompile.runtime import Port

CALL_BYTES = 16 << 20
"""Samples go in calls of about so many bytes at most, for the board's memory and for the deadline of a call."""

CALL_SAMPLES = 16
"""Most samples of a call that runs the whole network."""


class RemoteModel:
    """An artifact, uploaded to a board and loaded there; `lqcompile.runtime.CompiledModel` from afar.

    Args:
        device: the board.
        path: of the artifact, here.
        name: to call the model by on the board; one that is not in use there yet.
        threads: threads to run with (all models of a board's session share them); None for all cores.
        progress: called with what is being done and the part of it that is done, 0 to 1.

    Raises:
        ArtifactError: the file is damaged, or is not for the board's CPU; nothing is uploaded then.
        DeviceError: the board does not answer.
    """

    def __init__(
        self,
        device: Device,
        path: Path,
        *,
        name: str = "model",
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        artifact = read_artifact(path)
        self.manifest = artifact.manifest
        self.variant = variant_for(device, artifact.manifest)
        self.inputs = [Port.from_manifest(entry) for entry in artifact.manifest["inputs"]]
        self.outputs = [Port.from_manifest(entry) for entry in artifact.manifest["outputs"]]
        self.seconds: float | None = None
        """Time of the last `run` on the board without the way there; None under emulation."""
        self._device = device
        self._name = name
        self._progress = progress
        device.upload(f"{name}.tar", path.read_bytes(), progress)
        device.call("load", {"model": name, "file": f"{name}.tar", "threads": threads})

    @property
    def plan_values(self) -> set[str]:
        """Names of the values that `run_region` can read and write."""
        return {entry["value"] for entry in self.variant["tensors"]} | {port.name for port in self.inputs}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the network on the board; as `lqcompile.runtime.CompiledModel.run`."""
        arrays = check_inputs(self.inputs, inputs)
        count = len(next(iter(arrays.values())))
        step = min(CALL_SAMPLES, _samples_per_call(arrays))
        seconds: list[float | None] = []
        parts = []
        for start in range(0, count, step):
            part = {name: array[start : start + step] for name, array in arrays.items()}
            values, outputs = self._device.call("run", {"model": self._name}, part)
            seconds.append(values["seconds"])
            parts.append(outputs)
            if self._progress is not None:
                self._progress("running", min(1.0, (start + step) / count))
        measured = [value for value in seconds if value is not None]
        self.seconds = sum(measured) if len(measured) == len(seconds) else None
        return {port.name: np.concatenate([part[port.name] for part in parts]) for port in self.outputs}

    def run_region(self, name: str, values: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one region on the board; as `lqcompile.runtime.CompiledModel.run_region`."""
        return self._region("run_region", name, values)

    def run_sums(self, name: str, values: Mapping[str, Array]) -> npt.NDArray[np.int64]:
        """The integers of one region; as `lqcompile.runtime.CompiledModel.run_sums`."""
        return self._region("run_sums", name, values)["sums"]

    def _region(self, function: str, name: str, values: Mapping[str, Array]) -> dict[str, Array]:
        step = _samples_per_call(values)
        count = len(next(iter(values.values())))
        parts = []
        for start in range(0, count, step):
            part = {value: array[start : start + step] for value, array in values.items()}
            parts.append(self._device.call(function, {"model": self._name, "region": name}, part)[1])
        return {value: np.concatenate([part[value] for part in parts]) for value in parts[0]}


def variant_for(device: Device, manifest: dict[str, Any]) -> dict[str, Any]:
    """The variant of an artifact that the board will pick.

    Raises:
        ArtifactError: its CPU can run none, as it says itself; better now than by code that it does not know.
    """
    info = device.info
    try:
        return select_variant(manifest, info["features"], machine=info["machine"], system=info["system"])
    except ArtifactError as error:
        raise ArtifactError(f"{device} ({info['cpu']}): {error}") from error


def _samples_per_call(arrays: Mapping[str, npt.NDArray[np.generic]]) -> int:
    size = sum(array[:1].nbytes for array in arrays.values())
    return max(1, CALL_BYTES // max(1, size))
