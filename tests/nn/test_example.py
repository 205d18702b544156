"""The training example, on a few made-up images."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

EPOCHS = ["--epochs", "1", "--tune-epochs", "2", "--snap-epochs", "1"]
EXAMPLE = Path(__file__).parents[2] / "examples" / "train_fashion_mnist.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("train_fashion_mnist", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_trains_and_exports_both_nets(seed, tmp_path, example, write_part, capsys):
    rng = np.random.default_rng(seed)
    write_part(tmp_path, "train", 64, rng)
    images, labels = write_part(tmp_path, "t10k", 20, rng)
    out = tmp_path / "out"
    example.main(["--data", str(tmp_path), "--out", str(out), "--batch", "32", *EPOCHS])
    printed = capsys.readouterr().out
    assert "w2a2 epoch 2/2" in printed and "float epoch 1/1" in printed
    sizes = {name: (out / f"fashion_mnist_{name}.onnx").stat().st_size for name in ("w2a2", "float")}
    assert sizes["w2a2"] < 100_000 < sizes["float"]
    stored = np.load(out / "fashion_mnist_test.npz")
    assert np.array_equal(stored["images"], images) and np.array_equal(stored["labels"], labels)
    for name in sizes:
        session = ort.InferenceSession(str(out / f"fashion_mnist_{name}.onnx"))
        assert session.run(None, {"x": images[:3, None].astype(np.float32) / 255})[0].shape == (3, 10)


def test_snapping_longer_than_training_is_refused(example, capsys):
    with pytest.raises(SystemExit):
        example.parse(["--tune-epochs", "1", "--snap-epochs", "2"])
    assert "--snap-epochs: found 2, expected 0 to 1 (--tune-epochs)" in capsys.readouterr().err


def test_the_quantized_net_alone_needs_its_trained_twin(example, tmp_path, capsys):
    with pytest.raises(SystemExit):
        example.parse(["--nets", "quantized", "--out", str(tmp_path)])
    assert "expected the trained twin; run --nets float first" in capsys.readouterr().err
    assert example.parse(["--nets", "quantized", "--from-scratch", "--out", str(tmp_path)]).from_scratch
