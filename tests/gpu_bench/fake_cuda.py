"""A torch.cuda that is this CPU: graphs run what they captured again, everything says when it was called."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch


class FakeCuda:
    """Installed by `install`; `calls` are the names of what was called, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.capturing = False

    def note(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: self.calls.append(name)


def install(patch: pytest.MonkeyPatch) -> FakeCuda:
    """Puts it in the place of torch.cuda; tensors and modules stay on the CPU."""
    fake = FakeCuda()

    class Stream:
        cuda_stream = 7
        wait_stream = staticmethod(fake.note("wait_stream"))

    class Graph:
        replay = staticmethod(fake.note("replay"))

    @contextmanager
    def graph(_: Graph) -> Iterator[None]:
        fake.calls.append("capture")
        yield
        fake.calls.append("captured")

    @contextmanager
    def stream(_: Stream) -> Iterator[None]:
        yield

    def empty(*arguments: Any, device: str | None = None, **options: Any) -> torch.Tensor:
        return real_empty(*arguments, **options)

    real_empty = torch.empty
    patch.setattr(torch.version, "cuda", "13.0")
    for name, stand_in in {
        "is_available": lambda: True,
        "CUDAGraph": Graph,
        "Stream": Stream,
        "current_stream": Stream,
        "stream": stream,
        "graph": graph,
        "synchronize": fake.note("synchronize"),
    }.items():
        patch.setattr(torch.cuda, name, stand_in)
    patch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)
    patch.setattr(torch.nn.Module, "cuda", lambda module: module)
    patch.setattr(torch, "empty", empty)
    return fake
