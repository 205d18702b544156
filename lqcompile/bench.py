"""Timing runners against one another in one run, interleaved.

Each round times every runner once, in an order that changes, so that a change of clock speed or a busy neighbour meets
all of them alike. A quick runner is called several times a round, so that a reading is long against the timer and the
first call after another runner has the caches to itself.
"""

from __future__ import annotations

import functools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from lqcompile import cpu
from lqcompile.errors import InputError
from lqcompile.float_twin import derive_float_twin
from lqcompile.graph.load import parse
from lqcompile.peers import Peer, open_peer

Runner = Callable[[], object]

_READING_S = 0.002
"""Shortest reading: a runner that is quicker is called several times for one."""

_WARM_UP_S = 0.05
"""Each runner runs this long, and at least twice, before anything counts."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Time of one call over the rounds, in milliseconds."""

    median_ms: float
    p90_ms: float


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Times of a compiled model and of what it is measured against.

    Args:
        compiled: time of the compiled model.
        against: peer name to its time.
        threads: threads that each of them had.
        repeats: rounds.
        batch: samples in a call.
        details: facts for the reader that are no figures, such as the CPU.
    """

    compiled: Timing
    against: Mapping[str, Timing]
    threads: int
    repeats: int
    batch: int
    details: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Stable keys; ``ratio`` is how many times as long the peer takes."""
        return {
            "median_ms": self.compiled.median_ms,
            "p90_ms": self.compiled.p90_ms,
            "threads": self.threads,
            "repeats": self.repeats,
            "batch": self.batch,
            "against": {
                name: {
                    "median_ms": timing.median_ms,
                    "p90_ms": timing.p90_ms,
                    "ratio": timing.median_ms / self.compiled.median_ms,
                }
                for name, timing in self.against.items()
            },
            **self.details,
        }


class Runnable(Protocol):
    """What is measured: the compiled model."""

    def run(self, inputs: dict[str, Any]) -> object: ...  # noqa: D102


def open_peers(
    names: Sequence[str],
    *,
    model: Path,
    float_model: Path | None,
    folder: Path,
    calibration: Mapping[str, npt.NDArray[np.generic]],
    threads: int,
) -> list[Peer]:
    """Load the networks to measure against.

    Args:
        names: of `lqcompile.peers.PEERS`.
        model: the low-bit ONNX file; the float network is derived from it where no `float_model` is given.
        float_model: the float network, or None.
        folder: where files may be made.
        calibration: input arrays that int8 ranges are taken from.
        threads: threads to run with.

    Raises:
        ModelError: `model` is no ONNX file, or ONNX Runtime does not load the float network.
    """
    if names and float_model is None:
        float_model = folder / "float_twin.onnx"
        onnx.save(derive_float_twin(parse(model)), float_model)
    return [open_peer(name, float_model, folder, calibration, threads) for name in names if float_model is not None]


def bench(
    compiled: Runnable,
    peers: Sequence[Peer],
    inputs: Mapping[str, npt.NDArray[np.generic]],
    *,
    threads: int,
    repeats: int,
    progress: Callable[[str, float], None] | None = None,
) -> BenchReport:
    """Time a compiled model against peers on the same inputs.

    Both sides are called from Python, so each pays for its own way in and out.

    Args:
        compiled: loaded with `threads`.
        peers: loaded with `threads`.
        inputs: name to array[N, ...], in the order of the inputs.
        threads: what they were loaded with, for the report.
        repeats: rounds.
        progress: called with what is done and the part of it.

    Raises:
        InputError: `repeats` is not positive.
    """
    feeds = dict(inputs)
    runners: dict[str, Runner] = {"": functools.partial(compiled.run, feeds)}
    runners |= {peer.name: functools.partial(peer.run, feeds) for peer in peers}
    timings = measure(runners, repeats, progress)
    return BenchReport(
        compiled=timings.pop(""),
        against=timings,
        threads=threads,
        repeats=repeats,
        batch=len(next(iter(feeds.values()))),
        details={"cpu": cpu.cpu_name()},
    )


def measure(
    runners: Mapping[str, Runner], repeats: int, progress: Callable[[str, float], None] | None = None
) -> dict[str, Timing]:
    """Time runners, interleaved.

    Args:
        runners: name to what is called.
        repeats: rounds; each gives one reading of every runner.
        progress: called with the runner's name and the part that is done.

    Returns:
        name to the median and the 90th percentile (the smallest reading that at least nine in ten do not exceed).

    Raises:
        InputError: `repeats` is not positive.
    """
    if repeats < 1:
        raise InputError(f"repeats: found {repeats}, expected at least 1")
    calls = {name: _warm_up(runner) for name, runner in runners.items()}
    readings: dict[str, list[float]] = {name: [] for name in runners}
    names = list(runners)
    for turn in range(repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            readings[name].append(_reading(runners[name], calls[name]))
        if progress is not None:
            progress("timing", (turn + 1) / repeats)
    return {
        name: Timing(
            median_ms=1e3 * statistics.median(times), p90_ms=1e3 * sorted(times)[math.ceil(0.9 * len(times)) - 1]
        )
        for name, times in readings.items()
    }


def _warm_up(runner: Runner) -> int:
    """Run for a while; give the calls that make one reading."""
    quickest, spent, runs = math.inf, 0.0, 0
    while runs < 2 or spent < _WARM_UP_S:
        last = _reading(runner, 1)
        quickest, spent, runs = min(quickest, last), spent + last, runs + 1
    return max(1, math.ceil(_READING_S / max(quickest, 1e-9)))


def _reading(runner: Runner, calls: int) -> float:
    """Seconds of one call, averaged over `calls`."""
    start = time.perf_counter()
    for _ in range(calls):
        runner()
    return (time.perf_counter() - start) / calls
