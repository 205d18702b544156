"""Whole networks in all widths against their float twin, all interleaved in one run; and ours layer by layer.

Weights are random and calibrated on random images: times do not depend on them. A time of a network goes from the start
of its CUDA graph on the host until the GPU is done, without copies; those of layers are taken by events.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from network_bench.models import model_file

from gpu_series.gemm import of_peak
from lqcompile.build import Selection, build
from lqcompile.cuda.model import CudaModel
from lqcompile.errors import InputError
from lqcompile.float_twin import derive_float_twin
from lqcompile.gpu_bench.bench import OWN, own_runners
from lqcompile.gpu_bench.opening import open_peers
from lqcompile.runtime import load
from lqcompile.timing import Stopwatch, spread

NETWORKS = ("resnet18", "resnet50", "vgg_small", "alexnet")
BITS = ((1, 1), (1, 2), (2, 2), (3, 3))
BATCHES = (1, 32, 256)

CALIBRATION_SAMPLES = 32

LAYER_READINGS = 7
LAYER_S = 2e-3
"""Of one reading of a layer, about: its steps run many times over in one graph."""

MOST_REPEATS = 100


def artifact(
    network: str,
    bits: tuple[int, int],
    target: str,
    image_size: int | None,
    folder: Path,
    select: Selection = "table",
) -> Path:
    """The artifact of a network, built unless the folder has it; its model is beside it."""
    size = "" if image_size is None else f"_{image_size}"
    place = folder / f"{network}{size}_w{bits[0]}a{bits[1]}"
    path = place / f"{target}{'' if select == 'table' else '_measured'}.tar"
    if not path.exists():
        build(model_file(network, *bits, image_size, place), target=target, output=path, select=select)
    return path


def measure_network(
    paths: Mapping[str, Path],
    peers: Sequence[str],
    batch: int,
    rounds: int,
    peaks: Mapping[str, Any],
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """One network with one number of samples.

    Args:
        paths: ``W1A1`` and so on to the artifact; the peers run the float twin of the first one's model.
        peers: names of `lqcompile.gpu_bench.opening.PEERS`.
        batch: samples of a run.
        rounds: readings of each.
        peaks: of this GPU (`gpu_series.peaks.measure_peaks`).
        tell: called with what is done.

    Returns:
        ``ours``: times, ratios to each peer and layers; ``peers``: times and what ran; ``absent``: reasons.
    """
    models = {name: _load(path) for name, path in paths.items()}
    port = next(iter(models.values())).inputs[0]
    images = np.random.default_rng(0).normal(size=(max(batch, CALIBRATION_SAMPLES), *port.shape)).astype(np.float32)
    feeds = {port.name: images[:batch]}
    runners = {name: own_runners(model, feeds)[OWN] for name, model in models.items()}
    twin = derive_float_twin(onnx.load(model_beside(next(iter(paths.values())))))
    opened, absent = open_peers(peers, twin, feeds, {port.name: images[:CALIBRATION_SAMPLES]}, tell)
    tell(f"timing {', '.join((*runners, *(peer.name for peer in opened)))}")
    stopwatch = Stopwatch(runners | {peer.name: peer.run for peer in opened})
    readings = [stopwatch.round() for _ in range(rounds)]
    times = {name: spread([entry[name] for entry in readings]) for name in readings[0]}
    ours = {}
    for name, model in models.items():
        own = times[name].median_ms
        ours[name] = {
            "ms": own,
            "uncertainty": times[name].uncertainty,
            "ratio": {peer.name: times[peer.name].median_ms / own for peer in opened},
            "layers": layer_times(model, feeds, peaks),
        }
    return {
        "batch": batch,
        "rounds": rounds,
        "ours": ours,
        "peers": {
            peer.name: {
                "ms": times[peer.name].median_ms,
                "uncertainty": times[peer.name].uncertainty,
                "what": peer.what,
            }
            for peer in opened
        },
        "absent": absent,
    }


def model_beside(path: Path) -> Path:
    """The ONNX file that an artifact of `artifact` was built from.

    Raises:
        InputError: there is none.
    """
    found = sorted(path.parent.glob("model_*.onnx"))
    if not found:
        raise InputError(
            f"artifact '{path}': found no model beside it, expected one; remove the folder, and start again"
        )
    return found[0]


def layer_times(model: CudaModel, feeds: Mapping[str, Any], peaks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each region of a network by itself, on a batch, with its parts of the peaks.

    ``of_memory`` holds all bytes that kernels read and write against the rate at which memory is read: it can exceed 1
    where they stay in the GPU's cache.
    """
    batch = len(next(iter(feeds.values())))
    model.bind(feeds)[0]()
    layers = {layer["name"]: layer for layer in model.variant["layers"]}
    rows = []
    for region in model.variant["regions"]:
        seconds = _region_seconds(model, batch, region["first"], region["last"])
        moved = region["bytes"]["parameters"] + batch * (region["bytes"]["read"] + region["bytes"]["written"])
        row = {"name": region["name"], "op": region["op"], "ms": 1e3 * seconds, "bytes": moved}
        row["of_memory"] = moved / seconds / peaks["read_memory"]["best"] if peaks else None
        if region["name"] in layers:
            layer = layers[region["name"]]
            row["kernel"] = layer["kernel"]
            row["macs"] = batch * layer["macs"]
            row["pairs"] = layer["weight_bits"] * layer["act_bits"]
            row["of_peak"] = of_peak(row, peaks)
        rows.append(row)
    return rows


def _region_seconds(model: CudaModel, batch: int, first: int, last: int) -> float:
    once = model.engine.seconds(batch, first, last, 1)
    repeats = max(1, min(MOST_REPEATS, round(LAYER_S / max(once, 1e-9))))
    return statistics.median(model.engine.seconds(batch, first, last, repeats) for _ in range(LAYER_READINGS))


def _load(path: Path) -> CudaModel:
    model = load(path)
    if not isinstance(model, CudaModel):
        raise TypeError(f"{path}: found an artifact for another machine")
    return model
