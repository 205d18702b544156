"""Train a small LQ-Net (W2A2, 8-bit first and last layer) and its float twin on Fashion-MNIST, and export both.

    python examples/train_fashion_mnist.py --out models/

A network of one's own and `lqcompile.training` from Python; ``lqcompile train`` does the same from a recipe file. The
float twin trains first; the quantized net starts from its weights, unless `--from-scratch`. Both see the same recipe
but for epochs and learning rate: AdamW, one-cycle learning rate, random flips and shifts of up to one pixel. The last
two epochs of the quantized net train with the bases snapped to integers. Input of the exported files:
float32[N, 1, 28, 28] in 0..1, that is pixel / 255.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lqcompile
from lqcompile.errors import LQCompileError
from lqcompile.training import Data, DataOptions, Epoch, Optimizer, Recipe, Schedule, Snap, fit, load_data
from lqcompile.training.data.idx import DEBIAN_FOLDER, load_idx_images


class FashionNet(nn.Module):
    """VGG-style net for 1x28x28 with a residual block: five convolutions, 16 million multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 32, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.body = nn.Sequential(
            *(_conv(32, 32), nn.BatchNorm2d(32), nn.ReLU()),
            *(_conv(32, 64), nn.MaxPool2d(2), nn.BatchNorm2d(64), nn.ReLU()),
            *(_conv(64, 128), nn.BatchNorm2d(128), nn.ReLU()),
        )
        self.block = nn.Sequential(_conv(128, 128), nn.BatchNorm2d(128))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        """float[N, 1, 28, 28] in 0..1 -> logits float[N, 10]."""
        x = self.body(self.stem(x))
        x = F.relu(self.block(x) + x)
        return self.head(self.pool(x).flatten(1))


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)


def make_recipe(args: argparse.Namespace, *, epochs: int, lr: float, snap: Snap | None = None) -> Recipe:
    """What both nets have in common, and what not."""
    return Recipe(
        epochs=epochs,
        seed=args.seed,
        data=DataOptions(set="fashion-mnist", batch=args.batch, augment="crop-flip", pad=1),
        optimizer=Optimizer(kind="adamw", lr=lr, weight_decay=1e-2),
        schedule=Schedule(kind="one-cycle"),
        snap=snap,
    )


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=16, help="epochs of the float twin")
    parser.add_argument("--tune-epochs", type=int, default=12, help="epochs of the quantized net")
    parser.add_argument("--from-scratch", action="store_true", help="do not start the quantized net from its twin")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--weight-bits", type=int, default=2)
    parser.add_argument("--act-bits", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder with the four IDX files")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the ONNX files and a folder of each run")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    """Train, print one table, write the ONNX files and the test images."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    twin_recipe = make_recipe(args, epochs=args.epochs, lr=4e-3)
    recipe = make_recipe(args, epochs=args.tune_epochs, lr=2e-3, snap=Snap(epochs=2))
    data = load_data(recipe.data, args.data)

    torch.manual_seed(args.seed)
    twin = FashionNet()
    torch.manual_seed(args.seed)
    model = FashionNet()
    name = f"w{args.weight_bits}a{args.act_bits}"
    rows = [("float", *train_and_export("float", twin, twin_recipe, data, args.out))]
    if not args.from_scratch:
        model.load_state_dict(twin.state_dict())
    lqcompile.quantize(model, args.weight_bits, args.act_bits, edge_bits=8, basis="int8")
    rows.append((name, *train_and_export(name, model, recipe, data, args.out)))

    images, labels = load_idx_images("test", args.data)
    np.savez_compressed(args.out / "fashion_mnist_test.npz", images=images[:1000], labels=labels[:1000])
    print(f"{'net':10} {'test top-1 %':>12} {'ONNX bytes':>11}")
    for net, accuracy, size in rows:
        print(f"{net:10} {100 * accuracy:12.2f} {size:11,}")


def train_and_export(name: str, model: nn.Module, recipe: Recipe, data: Data, out: Path) -> tuple[float, int]:
    """Train one net; returns its test accuracy, 0 to 1, and the size of its ONNX file in bytes."""

    def tell(epoch: Epoch) -> None:
        print(
            f"{name} epoch {epoch.epoch}/{recipe.epochs}: loss {epoch.loss:.4f}, test {100 * epoch.top1:.2f} %, "
            f"{epoch.seconds:.0f} s",
            flush=True,
        )

    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    result = fit(model, recipe, data, folder=folder, on_epoch=tell)
    path = out / f"fashion_mnist_{name}.onnx"
    lqcompile.export(model, torch.rand(4, 1, 28, 28), path)
    return result.test.top1, path.stat().st_size


if __name__ == "__main__":
    try:
        main()
    except LQCompileError as error:
        raise SystemExit(f"error: {error}") from None
