"""Emulated GPUs for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import emulated_gpu
import numpy as np
import pytest
from models import Builder
from onnx import save

from lqcompile.build import build as build_artifact
from lqcompile.cuda import build, driver


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[emulated_gpu.Driver]:
    """The emulated GPU in place of any other, and its kernels in place of machine code."""
    emulated = emulated_gpu.driver()
    monkeypatch.setattr(driver, "LIBRARY", str(emulated.path))
    monkeypatch.setattr(build, "compile_cuda", emulated_gpu.compile_emulated)
    yield emulated
    emulated.reset()


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network for cuda-h200, of emulated kernels; its model is beside it."""
    folder = tmp_path_factory.mktemp("artifact")
    model = Builder(np.random.default_rng(0), (8, 5, 5)).quantize(2).conv(16, bits=2).build()
    save(model, folder / "model.onnx")
    patch = pytest.MonkeyPatch()
    patch.setattr("lqcompile.cuda.build.compile_cuda", emulated_gpu.compile_emulated)
    build_artifact(folder / "model.onnx", target="cuda-h200", output=folder / "model.tar")
    patch.undo()
    return folder / "model.tar"
