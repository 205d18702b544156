"""The ONNX file of a network of the paper with random weights, calibrated on random images.

    python benchmarks/network_bench/models.py resnet18 2 2 model.onnx [image size]

Run as a program of its own, so that torch is not in the process that times.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lqcompile.encoding import MAX_ACTIVATION_TOTAL, MAX_WEIGHT_TOTAL

IMAGES = 2

FLOAT = 32
"""Bits of activations that stay in float32."""

LARGEST = (MAX_WEIGHT_TOTAL, MAX_ACTIVATION_TOTAL)

SNAP_LIMITS = (14, 15)
"""What the integers of a basis add up to at most, of weights and of activations, where both have up to three bits.

With activations up to 15, AVX2 adds four look-ups of levels in a byte; with weights up to 14, transformed tiles of 3x3
convolutions fit bytes (docs/performance.md).
"""

SNAPPED_BITS = 3
"""Bits that such small integers are enough for."""


def model_file(network: str, weight_bits: int, act_bits: int, image_size: int | None, folder: Path) -> Path:
    """The file, made unless `folder` has it.

    Args:
        network: one of `lqcompile.models.names`.
        weight_bits: 1 to 4.
        act_bits: 1 to 4; 32 for float activations.
        image_size: rows and columns; None for those of the paper.
        folder: where files are kept.
    """
    path = folder / "model_{}_{}.onnx".format(*_limits(weight_bits, act_bits))
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        options = [] if image_size is None else [str(image_size)]
        part = path.with_suffix(".part")
        command = [sys.executable, __file__, network, str(weight_bits), str(act_bits), str(part), *options]
        subprocess.run(command, check=True)
        part.replace(path)
    return path


def _limits(weight_bits: int, act_bits: int) -> tuple[int, int]:
    """What the integers of a basis add up to at most: of weights, of activations."""
    return SNAP_LIMITS if weight_bits <= SNAPPED_BITS and act_bits in (1, 2, 3, FLOAT) else LARGEST


def main(network: str, weight_bits: str, act_bits: str, path: str, image_size: str = "") -> None:
    """Make the file."""
    import torch

    from lqcompile import models
    from lqcompile.nn import calibrate, export

    torch.manual_seed(0)
    torch.set_num_threads(1)
    bits = None if int(act_bits) == FLOAT else int(act_bits)
    size = int(image_size) if image_size else models.NETWORKS[network].image_size
    model = models.create(network, weight_bits=int(weight_bits), act_bits=bits, image_size=size)
    images = torch.randn(IMAGES, 3, size, size)
    weight_limit, act_limit = _limits(int(weight_bits), int(act_bits))
    calibrate(model, [images], max_passes=2, weight_limit=weight_limit, act_limit=act_limit)
    export(model.eval(), images[:1], path)


if __name__ == "__main__":
    main(*sys.argv[1:])
