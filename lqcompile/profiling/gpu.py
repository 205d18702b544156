"""The GPU of this machine as a place to profile an artifact.

A pass times the network and then each region on a batch: between two events, around a graph that runs the same many
times over, so that neither the host nor the start of a graph counts. What the GPU can do at most is what its driver
tells, not a measurement: the highest clock, and the rate of its memory.
"""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lqcompile import cpu
from lqcompile.cuda.capability import describe
from lqcompile.cuda.engine import MOST_SAMPLES
from lqcompile.cuda.model import CudaModel
from lqcompile.errors import DeviceError, InputError
from lqcompile.profiling.caches import MEMORY, Cache
from lqcompile.profiling.machine import Machine
from lqcompile.profiling.passes import Readings
from lqcompile.target import GPU

CLOCK_KHZ, MEMORY_CLOCK_KHZ, MEMORY_BITS, L2_BYTES = 13, 36, 37, 38
"""CUdevice_attribute: highest clock of multiprocessors, that of the memory and its width, size of the L2 cache."""

MEMORY_TRANSFERS = 2
"""Of the memory, in a cycle of its clock."""

READING_S = 1e-3
"""Of one reading, about: events tell 0.5 us apart, and the first launch of a graph waits for the GPU."""

MOST_REPEATS = 100
"""Of what one graph runs."""

UNKNOWN = {"clock_mhz": None, "governor": None, "temperature_c": None, "throttled": None}
"""What `lqcompile.conditions.conditions` tells of CPUs, and the driver does not of a GPU."""


class GpuPlace:
    """This process and its GPU.

    Args:
        model: loaded.
        inputs: name to array[1, ...]; all samples of a batch are alike.
        samples: of a batch.

    Raises:
        DeviceError: its memory has no room for so many samples at a time.
        InputError: more never run together.
    """

    name = "this machine"

    def __init__(self, model: CudaModel, inputs: Mapping[str, npt.NDArray[Any]], samples: int) -> None:
        if samples > MOST_SAMPLES:
            raise InputError(
                f"profile: found --batch {samples}, expected at most {MOST_SAMPLES}: more samples go through a GPU in "
                "batches of that; ask for fewer"
            )
        self._engine, self._samples = model.engine, samples
        self._gpu = gpu = model.engine.gpu
        self._spans = {"": (0, int(model.variant["steps"]))}
        self._spans |= {region["name"]: (region["first"], region["last"]) for region in model.variant["regions"]}
        self._repeats: dict[str, int] = {}
        model.bind({name: np.repeat(array, samples, axis=0) for name, array in inputs.items()})[0]()
        if self._engine.room < samples:
            raise DeviceError(
                f"GPU {gpu.name}: found memory for {self._engine.room} samples at a time, expected {samples}; give a "
                "smaller --batch, or close other programs"
            )
        versions = {name: importlib.metadata.version(name) for name in ("lqcompile", "numpy")}
        self.info: Mapping[str, Any] = {
            "machine": GPU,
            "system": cpu.system(),
            "cpu": describe(gpu),
            "features": [f"compute capability {gpu.capability[0]}.{gpu.capability[1]}"],
            "cores": gpu.multiprocessors,
            "emulator": None,
            "versions": {**versions, "CUDA of the driver": gpu.driver},
        }

    def machine(self, library: bytes, threads: int) -> Machine:  # noqa: ARG002 - CPUs are measured with both
        """What the driver tells of the GPU; nothing tells how fast its L2 cache is."""
        gpu = self._gpu
        moved = MEMORY_TRANSFERS * 1e3 * gpu.attribute(MEMORY_CLOCK_KHZ) * gpu.attribute(MEMORY_BITS) / 8
        return Machine(
            clock_hz=1e3 * gpu.attribute(CLOCK_KHZ),
            caches=(Cache(level=2, bytes=gpu.attribute(L2_BYTES), cores=gpu.multiprocessors),),
            bytes_per_s={MEMORY: moved},
            threads=gpu.multiprocessors,
            os=platform.platform(),
        )

    def passes(self, seconds: float, most: int) -> Readings:
        """Time passes for about so long: seconds of the GPU for one sample; the first ones of all warm up."""
        self._gpu.enter()
        if not self._repeats:
            for name, span in self._spans.items():
                self._seconds(span, 1)
                self._repeats[name] = max(1, min(MOST_REPEATS, round(READING_S / max(self._seconds(span, 1), 1e-9))))
        readings = Readings()
        end = time.perf_counter() + seconds
        for _ in range(most):
            found = {
                name: self._seconds(span, self._repeats[name]) / self._samples for name, span in self._spans.items()
            }
            whole = found.pop("")
            readings.extend(
                Readings(whole=[whole], regions={name: [value] for name, value in found.items()}, call=[0.0])
            )
            if time.perf_counter() >= end:
                break
        return readings

    def _seconds(self, span: tuple[int, int], repeats: int) -> float:
        """Of a batch; a region may have no steps, where one before it does its work."""
        return self._engine.seconds(self._samples, *span, repeats) if span[0] < span[1] else 0.0

    def conditions(self) -> dict[str, Any]:
        """Unknown: the driver tells neither clock nor temperature of now."""
        return dict(UNKNOWN)
