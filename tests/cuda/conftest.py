"""Emulated GPUs for the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import emulated_gpu
import pytest

from lqcompile.cuda import build, driver


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[emulated_gpu.Driver]:
    """The emulated GPU in place of any other, and its kernels in place of machine code."""
    emulated = emulated_gpu.driver()
    monkeypatch.setattr(driver, "LIBRARY", str(emulated.path))
    monkeypatch.setattr(build, "compile_cuda", emulated_gpu.compile_emulated)
    yield emulated
    emulated.reset()
