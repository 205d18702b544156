"""Whole networks on an NVIDIA GPU against their float twin in torch, float16, both timed interleaved in one run.

    python benchmarks/gpu.py [--networks resnet18 vgg_small] [--batches 1 32 256] [--bits 1/1 1/2 2/2 3/3] [--json]

Weights are random and calibrated on random images: times do not depend on them. Both sides run as one CUDA graph. Torch
runs channels-last, once as it is and once through ``torch.compile``; the faster counts. Times are on the GPU, from the
start of the graph to its end, without copies of inputs and outputs. Needs torch with CUDA; see docs/cuda.md.

No GPU has run this yet.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from network_bench.models import model_file

from lqcompile import build
from lqcompile.cuda.driver import Gpu
from lqcompile.errors import DeviceError, LQCompileError
from lqcompile.runtime import load
from lqcompile.timing import measure

Runner = Callable[[], object]


def main() -> int:
    """Time all cells; 1 where there is no GPU, or no torch that can use it."""
    options = parse()
    try:
        gpu = Gpu()
        torch = cuda_torch()
    except LQCompileError as error:
        print(f"benchmarks/gpu.py: {error}", file=sys.stderr)
        return 1
    rows = []
    with tempfile.TemporaryDirectory(prefix="lqcompile-") as folder:
        for network in options.networks:
            for batch in options.batches:
                peers = {"torch-fp16": twin(torch, network, batch, compiled=False)}
                peers["torch-fp16-compiled"] = twin(torch, network, batch, compiled=True)
                ours = {
                    f"W{bits.replace('/', 'A')}": network_runner(network, bits, batch, options.target, Path(folder))
                    for bits in options.bits
                }
                timings = measure({**ours, **peers}, options.rounds)
                medians = {name: timing.median_ms for name, timing in timings.items()}
                best = min(medians[name] for name in peers)
                for name in ours:
                    cell = {"network": network, "batch": batch, "bits": name, "ms": medians[name]}
                    rows.append({**cell, "torch_fp16_ms": best, "ratio": best / medians[name]})
                    if not options.json:
                        print(f"{network:>12} {batch:>4} {name}: {medians[name]:8.3f} ms, torch {best:8.3f} ms")
    if options.json:
        print(json.dumps({"gpu": gpu.name, "target": options.target, "torch": torch.__version__, "cells": rows}))
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50", "vgg_small", "alexnet"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--bits", nargs="+", default=["1/1", "1/2", "2/2", "3/3"], help="of weights / activations")
    parser.add_argument("--target", default="cuda-h200", help="one that the GPU runs ('lqcompile targets')")
    parser.add_argument("--rounds", type=int, default=51, help="readings of each, interleaved; the median counts")
    parser.add_argument("--json", action="store_true", help="for programs")
    return parser.parse_args()


def cuda_torch() -> Any:
    """Torch, if it can use a GPU.

    Raises:
        DeviceError: it cannot.
    """
    import torch

    if not torch.cuda.is_available():
        raise DeviceError(
            f"torch {torch.__version__}: found no CUDA in it, expected a build with CUDA; reinstall torch"
        )
    return torch


def twin(torch: Any, network: str, batch: int, *, compiled: bool) -> Runner:
    """A replay of the float twin in float16."""
    from lqcompile import models

    size = models.NETWORKS[network].image_size
    model = models.create(network, weight_bits=None, act_bits=None, edge_bits=None).eval().cuda().half()
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size, device="cuda", dtype=torch.float16)
    images = images.to(memory_format=torch.channels_last)
    called = torch.compile(model) if compiled else model
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode():
        for _ in range(3):
            called(images)
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            called(images)

    def replay() -> None:
        graph.replay()
        torch.cuda.synchronize()

    return replay


def network_runner(network: str, bits: str, batch: int, target: str, folder: Path) -> Runner:
    """A start of our network on what its inputs on the GPU hold."""
    weight_bits, act_bits = (int(number) for number in bits.split("/"))
    name = f"{network}_{weight_bits}_{act_bits}"
    artifact = folder / f"{name}.tar"
    if not artifact.exists():
        build(model_file(network, weight_bits, act_bits, None, folder / name), target=target, output=artifact)
    model: Any = load(artifact)
    images = np.random.default_rng(0).normal(size=(batch, *model.inputs[0].shape)).astype(np.float32)
    call, _ = model.bind({model.inputs[0].name: images})
    call()
    start: Runner = model.engine.starter(batch)
    return start


if __name__ == "__main__":
    sys.exit(main())
