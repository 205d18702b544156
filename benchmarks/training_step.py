"""Cost of a quantized training step relative to the float step of the same network.

    python benchmarks/training_step.py --steps 5 --threads 1

VGG-Small of the LQ-Nets paper (CIFAR-10 shapes: 3x32x32, batch 100; first convolution and last layer in float). Steps
of the nets alternate within one process, after one warm-up step each; the table shows medians.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from itertools import product

import torch
import torch.nn.functional as F
from torch import nn

import lqcompile.nn as lq


def vgg_small() -> nn.Sequential:
    """VGG-Small in the order of the paper's code: convolution, pooling, batch norm, ReLU."""
    layers: list[nn.Module] = []
    plan = ((3, 128, False), (128, 128, True), (128, 256, False), (256, 256, True), (256, 512, False), (512, 512, True))
    for inputs, outputs, pool in plan:
        layers.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
        if pool:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 4 * 4, 10))


def main() -> None:
    """Measure and print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bits", nargs="+", default=["2/2"], help="weight bits / activation bits, such as 1/2 2/2 3/3")
    parser.add_argument("--methods", nargs="+", default=["lq"], help="of lqcompile.nn.methods: lq, lsq, dorefa-pact")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    images, labels = torch.randn(args.batch, 3, 32, 32), torch.randint(0, 10, (args.batch,))

    nets: dict[str, nn.Module] = {"float": vgg_small()}
    for entry, method in product(args.bits, args.methods):
        weight_bits, act_bits = (int(bits) for bits in entry.split("/"))
        nets[f"W{weight_bits}A{act_bits} {method}"] = lq.quantize(vgg_small(), weight_bits, act_bits, method=method)
    optimizers = {name: torch.optim.SGD(net.parameters(), 0.02, momentum=0.9) for name, net in nets.items()}
    times: dict[str, list[float]] = {name: [] for name in nets}
    for step in range(args.steps + 1):
        for name, net in nets.items():
            start = time.perf_counter()
            loss = F.cross_entropy(net(images), labels)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            if step:
                times[name].append(time.perf_counter() - start)

    print(f"VGG-Small, batch {args.batch}, {args.threads} thread(s), torch {torch.__version__}, {platform.machine()}")
    print(f"median of {args.steps} interleaved steps")
    base = statistics.median(times["float"])
    print(f"{'net':16} {'ms/step':>9} {'ratio':>6}")
    for name, taken in times.items():
        print(f"{name:16} {1000 * statistics.median(taken):9.0f} {statistics.median(taken) / base:6.2f}")


if __name__ == "__main__":
    main()
