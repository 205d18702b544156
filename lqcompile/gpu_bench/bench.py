"""An artifact on a GPU against its peers, timed interleaved in one run (`lqcompile.timing`).

Inputs lie on the GPU before the clock runs, and outputs stay there; a reading goes from the start of a run on the host
until the GPU is done. What the copies of lqcompile's inputs and outputs add is timed beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lqcompile.cuda.driver import Gpu
from lqcompile.cuda.engine import MOST_SAMPLES
from lqcompile.cuda.model import CudaModel
from lqcompile.errors import DeviceError, InputError
from lqcompile.float_twin import derive_float_twin
from lqcompile.gpu_bench.opening import PEERS, open_peers
from lqcompile.gpu_bench.peer import Array, GpuPeer, Run
from lqcompile.graph.load import parse
from lqcompile.inputs import random_inputs
from lqcompile.peers import parse_peers
from lqcompile.timing import Spread, Stopwatch, spread

OWN, COPIED = "lqcompile", "lqcompile with copies"
"""Runs of the artifact: as the peers run, and with inputs from the host and outputs to it."""

BATCHES = (1, 32, 256)
"""Samples of a run, where none are asked for."""

_CALIBRATION_SAMPLES = 32

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class GpuReport:
    """Times of an artifact and its peers, with one number of samples.

    Args:
        gpu: name of the GPU.
        variant: of the artifact.
        batch: samples of a run.
        times: `OWN`, `COPIED` and the names of peers to their readings.
        what: name of a peer to what exactly ran.
        absent: name of a peer to the reason why it did not.
    """

    gpu: str
    variant: str
    batch: int
    times: Mapping[str, Spread]
    what: Mapping[str, str]
    absent: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Stable keys, those of every ``bench``; ``ratio`` is how many times as long the peer takes."""
        own = self.times[OWN]
        return {
            **_figures(own),
            "batch": self.batch,
            "repeats": own.readings,
            "gpu": self.gpu,
            "variant": self.variant,
            "with_copies": _figures(self.times[COPIED]),
            "against": {
                name: {
                    **_figures(self.times[name]),
                    "ratio": self.times[name].median_ms / own.median_ms,
                    "what": self.what[name],
                }
                for name in self.what
            },
            "absent": dict(self.absent),
        }


def check_request(against: str | None, batches: Sequence[int], threads: int) -> tuple[str, ...]:
    """Names of the peers, after a look at what cannot be done.

    Raises:
        DeviceError: there is no GPU that can be used.
        InputError: an option asks for what there is not on a GPU.
    """
    names = tuple(PEERS) if against is None else parse_peers(against, tuple(PEERS))
    if threads != 1:
        raise InputError(f"bench: found --threads {threads}, expected none: on a GPU nothing has threads to set")
    for batch in batches:
        if batch > MOST_SAMPLES:
            raise InputError(
                f"bench: found --batch {batch}, expected at most {MOST_SAMPLES}: more samples go through a GPU in "
                "batches of that; ask for fewer"
            )
    Gpu()
    return names


def float_twin(float_model: Path | None, model: Path) -> onnx.ModelProto:
    """The network that peers run.

    Args:
        float_model: its ONNX file, or None to derive it.
        model: the low-bit ONNX file.

    Raises:
        ModelError: the file is no ONNX file.
    """
    if float_model is not None:
        return parse(float_model)
    return derive_float_twin(parse(model))


def bench_gpu(
    compiled: CudaModel,
    twin: onnx.ModelProto | None,
    names: Sequence[str],
    samples: Mapping[str, Array] | None,
    *,
    batch: int,
    repeats: int,
    seed: int,
    progress: Progress,
) -> GpuReport:
    """Time an artifact against peers on the same inputs.

    Args:
        compiled: the artifact, loaded.
        twin: what the peers run; None only where there are none.
        names: of peers.
        samples: name to float32[N, ...], taken from the start again where they are fewer than a batch; None for random
            ones.
        batch: samples of a run.
        repeats: rounds.
        seed: of random samples.
        progress: called with what is done and the part of it.

    Raises:
        DeviceError: the batch does not fit the memory, or the GPU fails.
        InputError: `repeats` is not positive.
    """
    if repeats < 1:
        raise InputError(f"repeats: found {repeats}, expected at least 1")
    count = max(batch, _CALIBRATION_SAMPLES)
    arrays = random_inputs(compiled.inputs, count, seed) if samples is None else _repeated(samples, count)
    feeds = {name: np.ascontiguousarray(array[:batch]) for name, array in arrays.items()}
    runners = own_runners(compiled, feeds)
    peers: list[GpuPeer] = []
    absent: dict[str, str] = {}
    if names and twin is not None:
        ranges = {name: array[:_CALIBRATION_SAMPLES] for name, array in arrays.items()}
        peers, absent = open_peers(names, twin, feeds, ranges, lambda text: progress(text, 0.0))
    stopwatch = Stopwatch(runners | {peer.name: peer.run for peer in peers})
    rounds = []
    for turn in range(repeats):
        rounds.append(stopwatch.round())
        progress(f"timing batches of {batch}", (turn + 1) / repeats)
    return GpuReport(
        gpu=compiled.engine.gpu.name,
        variant=compiled.variant["name"],
        batch=batch,
        times={name: spread([entry[name] for entry in rounds]) for name in rounds[0]},
        what={peer.name: peer.what for peer in peers},
        absent=absent,
    )


def own_runners(compiled: CudaModel, feeds: Mapping[str, Array]) -> dict[str, Run]:
    """Runs of an artifact on inputs that lie on the GPU, and with copies.

    Raises:
        DeviceError: the batch does not fit the memory.
    """
    batch = len(next(iter(feeds.values())))
    copied, _ = compiled.bind(feeds)
    room = compiled.engine.room
    if room < batch:
        raise DeviceError(
            f"GPU {compiled.engine.gpu.name}: found memory for {room} samples at a time, expected {batch}; ask for a "
            "smaller --batch, or close other programs"
        )
    copied()
    return {OWN: compiled.engine.starter(batch), COPIED: copied}


def _repeated(samples: Mapping[str, Array], count: int) -> dict[str, Array]:
    return {name: array[np.arange(count) % len(array)] for name, array in samples.items()}


def _figures(times: Spread) -> dict[str, float]:
    return {"median_ms": times.median_ms, "p90_ms": times.p90_ms, "uncertainty": times.uncertainty}
