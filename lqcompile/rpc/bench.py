"""Timing an artifact on a board, interleaved with what a user would run there instead.

The loop runs on the board, so the network between is in no figure. Between slices of the measurement the host looks
whether the medians are known well enough.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from lqcompile.build import build
from lqcompile.errors import DeviceError, InputError
from lqcompile.float_twin import derive_float_twin
from lqcompile.graph.load import parse
from lqcompile.peers import FP32, INT8, quantize_to_int8
from lqcompile.rpc.device import Device, Progress
from lqcompile.rpc.model import RemoteModel
from lqcompile.timing import Spread, spread
from lqcompile.wording import counted

TWIN = "float-twin"
"""The float network, compiled by lqcompile for the same CPU."""

BOARD_PEERS = (TWIN, FP32, INT8)
"""What ``bench --against`` takes for a board."""

MAIN = "lqcompile"

_SLICE_S = 0.5
_LAYER_ROUNDS = (3, 20)
_LAYERS_S = 5.0
"""All layers together are timed for about so long, within those numbers of rounds."""


@dataclass(frozen=True, kw_only=True)
class BoardReport:
    """Times on a board.

    Args:
        device: what the board is, and its state before.
        variant: of the artifact that ran.
        times: of each contestant, `MAIN` first.
        layers_ms: region name to the median of its time, alone.
        kernels: region name to its kernel family, of those that have one.
        after: state of the board after.
        settled: whether all medians are as certain as was asked for.
        seconds: that the measurement took.
        batch: samples in a call.
        threads: of each contestant.
    """

    device: Mapping[str, Any]
    variant: str
    times: Mapping[str, Spread]
    layers_ms: Mapping[str, float]
    kernels: Mapping[str, str]
    after: Mapping[str, Any]
    settled: bool
    seconds: float
    batch: int
    threads: int

    def to_json(self) -> dict[str, Any]:
        """Stable keys; ``ratio`` is how many times as long a contestant takes."""
        main = self.times[MAIN]
        before = {key: self.device[key] for key in self.after}
        return {
            **main.to_json(),
            "batch": self.batch,
            "threads": self.threads,
            "variant": self.variant,
            "against": {
                name: {**found.to_json(), "ratio": found.median_ms / main.median_ms}
                for name, found in self.times.items()
                if name != MAIN
            },
            "layers": [
                {"name": name, "kernel": self.kernels.get(name), "median_ms": time}
                for name, time in self.layers_ms.items()
            ],
            "settled": self.settled,
            "seconds": round(self.seconds, 3),
            "cpu": self.device["cpu"],
            "device": {key: value for key, value in self.device.items() if key not in self.after},
            "conditions": {"before": before, "after": dict(self.after)},
        }


def usual_peers(device: Device) -> tuple[str, ...]:
    """The compiled twin, and ONNX Runtime where the board has it."""
    return BOARD_PEERS if "onnxruntime" in device.info["versions"] else (TWIN,)


def make_peers(
    names: Sequence[str],
    *,
    model: Path | None,
    float_model: Path | None,
    variant: str,
    folder: Path,
    calibration: Mapping[str, npt.NDArray[np.generic]],
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Make the files that are to run beside the artifact.

    Args:
        names: of `BOARD_PEERS`.
        model: the low-bit ONNX file, or None; the float network is derived from it where no `float_model` is given.
        float_model: the float network, or None.
        variant: target to compile the twin for.
        folder: where files may be made.
        calibration: input name to array[N, ...] that int8 ranges are taken from.
        progress: called with what is being done and the part of it.

    Returns:
        name to an artifact (the twin) or an ONNX file.

    Raises:
        InputError: there is neither a model nor a float model.
        LQCompileError: the float network cannot be compiled.
    """
    if not names:
        return {}
    if float_model is None:
        if model is None:
            raise InputError(
                f"peers {', '.join(names)}: found an artifact alone, expected an ONNX file to make them from; give "
                "the ONNX file and --artifact, or --float-model, or --against none"
            )
        float_model = folder / "float_twin.onnx"
        onnx.save(derive_float_twin(parse(model)), float_model)
    files = {}
    for name in names:
        if name == TWIN:
            files[name] = folder / "float_twin.tar"
            build(float_model, target=variant, output=files[name], progress=progress)
        elif name == INT8:
            files[name] = folder / "int8.onnx"
            quantize_to_int8(float_model, files[name], dict(calibration))
        else:
            files[name] = float_model
    return files


def bench_on_board(
    device: Device,
    artifact: Path,
    peers: Mapping[str, Path],
    inputs: Mapping[str, npt.NDArray[np.generic]],
    *,
    threads: int,
    precision: float,
    fewest: int,
    limit_s: float,
    progress: Progress,
) -> BoardReport:
    """Time an artifact and its peers on a board.

    Rounds go on until the 95 % interval of each median is within `precision`, or the time is up.

    Args:
        device: the board.
        artifact: here.
        peers: name to file, from `make_peers`.
        inputs: name to array[N, ...], in the order of the inputs.
        threads: of each contestant.
        precision: part of the median.
        fewest: rounds at least, unless the time is up.
        limit_s: longest measurement.
        progress: called with what is being done and the part of it.

    Raises:
        DeviceError: the board is an emulator, whose times mean nothing, or it fails.
        ArtifactError: the artifact is not for the board's CPU.
    """
    refuse_emulator(device)
    before = device.info
    model = RemoteModel(device, artifact, name=MAIN, threads=threads, progress=progress)
    for name, path in peers.items():
        if name == TWIN:
            RemoteModel(device, path, name=name, threads=threads, progress=progress)
        else:
            device.upload(f"{name}.onnx", path.read_bytes(), progress)
            device.call("open_peer", {"peer": name, "file": f"{name}.onnx", "threads": threads})
    progress("warming up", 0.0)
    device.call("prepare", {}, inputs)
    readings: dict[str, list[float]] = {}
    start = time.monotonic()
    while True:
        answer, _ = device.call("measure", {"seconds": min(_SLICE_S, limit_s)})
        for name, values in answer["readings"].items():
            readings.setdefault(name, []).extend(values)
        times = {name: spread(values) for name, values in readings.items()}
        passed = time.monotonic() - start
        rounds, worst = times[MAIN].readings, max(found.uncertainty for found in times.values())
        settled = rounds >= fewest and worst <= precision
        progress(f"timing, {counted(rounds, 'round')}, medians within {100 * worst:.1f} %", min(1.0, passed / limit_s))
        if settled or passed >= limit_s:
            break
    layers = _time_layers(device, model, inputs, times[MAIN].median_ms, progress)
    after = answer["conditions"]
    return BoardReport(
        device=before,
        variant=model.variant["name"],
        times=times,
        layers_ms=layers,
        kernels={layer["name"]: layer["kernel"] for layer in model.variant["layers"]},
        after=after,
        settled=settled,
        seconds=passed,
        batch=len(next(iter(inputs.values()))),
        threads=threads,
    )


def refuse_emulator(device: Device) -> None:
    """Never report a time that was taken under emulation.

    Raises:
        DeviceError: the board is an emulator.
    """
    if device.info["emulator"] is not None:
        raise DeviceError(
            f"{device}: found {device.info['emulator']} emulation, expected hardware, for times under emulation mean "
            "nothing; use 'lqcompile verify' there, and 'lqcompile bench' on a real board"
        )


def _time_layers(
    device: Device,
    model: RemoteModel,
    inputs: Mapping[str, npt.NDArray[np.generic]],
    whole_ms: float,
    progress: Progress,
) -> dict[str, float]:
    """Median time of each region; in order, for each works on what the one before left."""
    few, many = _LAYER_ROUNDS
    rounds = int(np.clip(_LAYERS_S / (whole_ms / 1e3), few, many))
    medians = {}
    names = [region["name"] for region in model.variant["regions"]]
    for index, name in enumerate(names):
        answer, _ = device.call("time_layer", {"model": MAIN, "layer": name, "rounds": rounds}, inputs)
        medians[name] = answer["median_ms"]
        progress(f"timing layer {name}", (index + 1) / len(names))
    return medians
