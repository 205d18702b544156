"""What small integer bases cost a network that is trained on: one epoch with float bases, one with snapped ones.

    python benchmarks/snap_training.py [--bits 2/2 3/3] [--limits 127/255 31/15 14/15] [--seeds 3]

VGG-Small at 1/8 of its width on Fashion-MNIST of 14x14 pixels, first and last layer in 8 bits. All networks of a seed
start from the same float twin (``benchmarks/accuracy.py`` makes and keeps it) and share the first epoch; then the bases
are snapped to each pair of limits and a second epoch of the same batches follows. "float": nothing is snapped.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from statistics import fmean

import torch
from accuracy_bench.matrix import FORMS
from accuracy_bench.run import accuracy, calibration_images, float_twin, load, observe_ranges, recipe
from accuracy_bench.statistics import interval
from torch import nn

from lqcompile.nn import calibrate, quantize, snap
from lqcompile.training import Data, fit

ROOT = Path(__file__).parents[1]
NETWORK = "vgg_small"
FIRST_RATE, LAST_RATE = 0.01, 0.003
"""Highest learning rates of the two epochs."""

FLOAT = "float"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", nargs="+", default=["2/2"], help="of weights and activations")
    parser.add_argument("--limits", nargs="+", default=["127/255", "31/15", "14/15"], help="the first is the reference")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "accuracy", help="where float twins are kept")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def begun(bits: tuple[int, int], seed: int, data: Data, cache: Path) -> nn.Module:
    """The quantized network of a seed after its epoch with float bases."""
    model = float_twin(NETWORK, FORMS[NETWORK], data, seed, cache)
    quantize(model, *bits, edge_bits=8)
    images = calibration_images(data)
    observe_ranges(model, images)
    calibrate(model, images)
    fit(model, recipe(1, FIRST_RATE, seed), data)
    return model


def finished(model: nn.Module, limits: str, seed: int, data: Data) -> float:
    """Accuracy in percent after the second epoch; `model` is left alone."""
    trained = copy.deepcopy(model)
    if limits != FLOAT:
        snap(trained, *map(int, limits.split("/")))
    # Another order of the images than in the first epoch.
    fit(trained, recipe(1, LAST_RATE, seed + 1000), data)
    return accuracy(trained, data)


def main() -> None:
    """Train, and print a table row by row."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    data = load(arguments.data, FORMS[NETWORK].image_size)
    columns = [FLOAT, *arguments.limits]
    print(f"| bits | seed | {' | '.join(columns)} |\n|{'---|' * (2 + len(columns))}")
    for text in arguments.bits:
        weight_bits, _, act_bits = text.partition("/")
        found: dict[str, list[float]] = {name: [] for name in columns}
        for seed in range(arguments.seeds):
            model = begun((int(weight_bits), int(act_bits)), seed, data, arguments.cache)
            for name in columns:
                found[name].append(finished(model, name, seed, data))
            cells = " | ".join(f"{found[name][-1]:.2f}" for name in columns)
            print(f"| W{weight_bits}A{act_bits} | {seed} | {cells} |", flush=True)
        cells = []
        for name in columns:
            less = [value - best for value, best in zip(found[name], found[arguments.limits[0]], strict=True)]
            reach = interval(less).half
            cells.append(f"{fmean(less):+.2f}" + ("" if reach is None or not any(less) else f" ± {reach:.2f}"))
        print(f"| W{weight_bits}A{act_bits} | less {arguments.limits[0]} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
