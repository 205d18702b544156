"""Train a small LQ-Net (W2A2, 8-bit first and last layer) and its float twin on Fashion-MNIST, and export both.

    python examples/train_fashion_mnist.py --epochs 16 --out models/

The float twin trains first; the quantized net starts from its weights, unless `--from-scratch`. Both see the same
recipe: AdamW, one-cycle learning rate, random flips and shifts of up to one pixel; `--tune-epochs` and `--tune-lr` are
those of the quantized net. Its last `--snap-epochs` epochs train with the bases snapped to integers. Input of the
exported files: float32[N, 1, 28, 28] in 0..1, that is pixel / 255.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lqcompile.nn as lq
from lqcompile.errors import LQCompileError
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


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Flip half of the images and shift the batch by up to one pixel: uint8[N, 1, 28, 28] -> float[N, 1, 28, 28]."""
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip[:, None, None, None], images.flip(3), images)
    top, left = torch.randint(0, 3, (2,), generator=generator).tolist()
    return F.pad(images, (1, 1, 1, 1))[:, :, top : top + 28, left : left + 28].float() / 255


def train(
    name: str,
    model: nn.Module,
    data: dict[str, Tensor],
    args: argparse.Namespace,
    *,
    epochs: int,
    lr: float,
    snap_epochs: int = 0,
) -> float:
    """Train `model` and return its test accuracy in percent."""
    generator = torch.Generator().manual_seed(args.seed)
    images, labels = data["train_images"], data["train_labels"]
    steps = len(images) // args.batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps)
    start, accuracy = time.perf_counter(), 0.0
    for epoch in range(epochs):
        if snap_epochs and epoch == epochs - snap_epochs:
            lq.snap(model)
        model.train()
        order = torch.randperm(len(images), generator=generator)
        total = 0.0
        for step in range(steps):
            pick = order[step * args.batch : (step + 1) * args.batch]
            loss = F.cross_entropy(model(augment(images[pick], generator)), labels[pick])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        accuracy = evaluate(model, data)
        print(
            f"{name} epoch {epoch + 1}/{epochs}: loss {total / steps:.4f}, test {accuracy:.2f} %, "
            f"{time.perf_counter() - start:.0f} s",
            flush=True,
        )
    return accuracy


@torch.no_grad()
def evaluate(model: nn.Module, data: dict[str, Tensor]) -> float:
    """Test accuracy in percent."""
    model.eval()
    batches = zip(data["test_images"].split(500), data["test_labels"].split(500), strict=True)
    correct = sum(int((model(images.float() / 255).argmax(1) == labels).sum()) for images, labels in batches)
    return 100 * correct / len(data["test_labels"])


def load(folder: Path) -> dict[str, Tensor]:
    """All images as uint8[N, 1, 28, 28] and labels as int64[N]."""
    data: dict[str, Tensor] = {}
    for part in ("train", "test"):
        images, labels = load_idx_images(part, folder)
        data[f"{part}_images"] = torch.from_numpy(images)[:, None]
        data[f"{part}_labels"] = torch.from_numpy(labels).long()
    return data


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--tune-epochs", type=int, default=12, help="epochs of the quantized net")
    parser.add_argument("--tune-lr", type=float, default=2e-3, help="peak learning rate of the quantized net")
    parser.add_argument("--from-scratch", action="store_true", help="do not start the quantized net from its twin")
    parser.add_argument("--snap-epochs", type=int, default=2, help="last epochs, with bases snapped to integers")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--weight-decay", type=float, default=1e-2)
    parser.add_argument("--weight-bits", type=int, default=2)
    parser.add_argument("--act-bits", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder with the four IDX files")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the ONNX files and checkpoints")
    parser.add_argument("--nets", choices=("both", "float", "quantized"), default="both")
    args = parser.parse_args(argv)
    if not 0 <= args.snap_epochs <= args.tune_epochs:
        parser.error(f"--snap-epochs: found {args.snap_epochs}, expected 0 to {args.tune_epochs} (--tune-epochs)")
    twin = args.out / "fashion_mnist_float.pt"
    if args.nets == "quantized" and not args.from_scratch and not twin.exists():
        parser.error(f"--nets quantized: found no {twin}, expected the trained twin; run --nets float first")
    return args


def main(argv: list[str] | None = None) -> None:
    """Train, print one table, write the ONNX files and the test images."""
    args = parse(argv)
    torch.set_num_threads(args.threads)
    data = load(args.data)
    args.out.mkdir(parents=True, exist_ok=True)
    bits = f"w{args.weight_bits}a{args.act_bits}"
    rows = []
    for name in ("float", bits):
        if args.nets == ("quantized" if name == "float" else "float"):
            continue
        torch.manual_seed(args.seed)
        model = FashionNet()
        if name == "float":
            accuracy = train(name, model, data, args, epochs=args.epochs, lr=args.lr)
        else:
            if not args.from_scratch:
                model.load_state_dict(torch.load(args.out / "fashion_mnist_float.pt"))
            basis = "int8" if args.snap_epochs else "float"
            lq.quantize(model, args.weight_bits, args.act_bits, edge_bits=8, basis=basis)
            options = {"epochs": args.tune_epochs, "lr": args.tune_lr, "snap_epochs": args.snap_epochs}
            accuracy = train(name, model, data, args, **options)
        torch.save(model.state_dict(), args.out / f"fashion_mnist_{name}.pt")
        rows.append((name, accuracy, export(model, data, args.out / f"fashion_mnist_{name}.onnx")))
    np.savez_compressed(
        args.out / "fashion_mnist_test.npz",
        images=data["test_images"][:1000, 0].numpy(),
        labels=data["test_labels"][:1000].numpy().astype(np.uint8),
    )
    print(f"{'net':10} {'test top-1 %':>12} {'ONNX bytes':>11}")
    for name, accuracy, size in rows:
        print(f"{name:10} {accuracy:12.2f} {size:11,}")


def export(model: nn.Module, data: dict[str, Tensor], path: Path) -> int:
    """Write the ONNX file and return its size in bytes."""
    lq.export(model, data["test_images"][:4].float() / 255, path)
    return path.stat().st_size


if __name__ == "__main__":
    try:
        main()
    except LQCompileError as error:
        raise SystemExit(f"error: {error}") from None
