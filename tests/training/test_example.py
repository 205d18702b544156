"""The training example, on a few made-up images."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime as ort

EXAMPLE = Path(__file__).parents[2] / "examples" / "train_fashion_mnist.py"


def test_trains_and_exports_both_nets(seed, tmp_path, write_part, capsys):
    spec = importlib.util.spec_from_file_location("train_fashion_mnist", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    rng = np.random.default_rng(seed)
    write_part(tmp_path, "train", 32, rng)
    images, labels = write_part(tmp_path, "t10k", 20, rng)
    out = tmp_path / "out"
    example.main(["--data", str(tmp_path), "--out", str(out), "--batch", "32", "--epochs", "1", "--tune-epochs", "3"])
    printed = capsys.readouterr().out
    assert "w2a2 epoch 3/3" in printed and "float epoch 1/1" in printed
    sizes = {name: (out / f"fashion_mnist_{name}.onnx").stat().st_size for name in ("w2a2", "float")}
    assert sizes["w2a2"] < 100_000 < sizes["float"]
    stored = np.load(out / "fashion_mnist_test.npz")
    assert np.array_equal(stored["images"], images) and np.array_equal(stored["labels"], labels)
    for name in sizes:
        session = ort.InferenceSession(str(out / f"fashion_mnist_{name}.onnx"))
        assert session.run(None, {"x": images[:3, None].astype(np.float32) / 255})[0].shape == (3, 10)
