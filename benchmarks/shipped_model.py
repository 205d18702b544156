"""Test accuracy of the shipped Fashion-MNIST model and its float twin, on all 10,000 test images.

    python benchmarks/shipped_model.py

ONNX Runtime runs the two files; `lqcompile demo` has the artifact on the first 1,000 of the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

from lqcompile.training.data.idx import DEBIAN_FOLDER, load_idx_images

SHIPPED = Path(__file__).parents[1] / "lqcompile" / "data"

BATCH = 100


def accuracy(path: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """Part of the images whose largest score is that of their label.

    Args:
        path: ONNX file with an input float32[N, 1, 28, 28] in 0..1.
        images: uint8[N, 28, 28].
        labels: int[N].
    """
    session = onnxruntime.InferenceSession(path)
    (name,) = (port.name for port in session.get_inputs())
    pixels = images[:, None].astype(np.float32) / 255
    batches = np.split(pixels, range(BATCH, len(pixels), BATCH))
    found = np.concatenate([session.run(None, {name: batch})[0].argmax(1) for batch in batches])
    return float((found == labels).mean())


def main() -> None:
    """Print a line per file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DEBIAN_FOLDER, help="folder with the four IDX files")
    images, labels = load_idx_images("test", parser.parse_args().data)
    for path in sorted(SHIPPED.glob("*.onnx")):
        print(f"{path.name}: {100 * accuracy(path, images, labels):.2f} % of {len(labels):,}")


if __name__ == "__main__":
    main()
