"""A compiled model against its peers, timed interleaved in one run (`lqcompile.timing`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx

from lqcompile import cpu
from lqcompile.float_twin import derive_float_twin
from lqcompile.graph.load import parse
from lqcompile.peers import Peer, open_peer
from lqcompile.timing import Runner, Timing, measure


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
        names: of `lqcompile.peers.ALL_PEERS`.
        model: the low-bit ONNX file; the float network is derived from it where no `float_model` is given.
        float_model: the float network, or None.
        folder: where files may be made.
        calibration: input arrays that int8 ranges are taken from.
        threads: threads to run with.

    Raises:
        ModelError: `model` is no ONNX file, or a peer does not load the float network.
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
