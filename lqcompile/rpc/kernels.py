"""Candidate kernels run on a board, for ``build --select measure``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile.kernels import Job, Steps
from lqcompile.rpc.device import Device
from lqcompile.rpc.message import pack
from lqcompile.select import missing_features
from lqcompile.target import Target


class Board:
    """Runs candidates on a board; a `lqcompile.select.Machine`."""

    def __init__(self, device: Device) -> None:
        self.name = str(device)
        self._device = device

    def missing(self, target: Target) -> list[str]:
        """What the board lacks of a target."""
        info = self._device.info
        return missing_features(target, info["machine"], info["system"], info["features"])

    def open(self, job: Job) -> Steps:
        """Upload compiled candidates and load them.

        Raises:
            DeviceError: the board does not take them.
        """
        self._device.upload("kernels", _message(job))
        if job.beside is not None:
            self._device.upload("beside", _message(job.beside))
        self._device.call("open_kernels", {"file": "kernels", "beside": None if job.beside is None else "beside"})
        return _Steps(self._device)


class _Steps:
    """A job that is loaded on a board."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def run(self, step: int, port: int) -> npt.NDArray[Any]:
        """Run a step; gives what it left in a port."""
        return self._device.call("run_kernel", {"step": step, "port": port})[1]["port"]

    def times(self, steps: Sequence[int], rounds: int, beside: Sequence[int] = ()) -> list[list[float]]:
        """Seconds of one call of each step, in each of the rounds, interleaved: [steps, then those beside][rounds]."""
        answer, _ = self._device.call("time_kernels", {"steps": list(steps), "rounds": rounds, "beside": list(beside)})
        seconds: list[list[float]] = answer["seconds"]
        return seconds


def _message(job: Job) -> bytes:
    """What the board makes the job of again, without the one beside it."""
    arrays: dict[str, npt.NDArray[Any]] = {str(port): content for port, content in job.contents.items()}
    arrays |= {"library": np.frombuffer(job.library, np.uint8), "parameters": job.parameters}
    return pack({"ports": job.ports, "arena_bytes": job.arena_bytes}, arrays)
