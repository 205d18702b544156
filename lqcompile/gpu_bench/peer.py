"""What a network on a GPU is measured against, whoever runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]

Run = Callable[[], object]


@dataclass(frozen=True, kw_only=True, eq=False)
class GpuPeer:
    """A network on the GPU, ready to run on inputs that lie there.

    Args:
        name: one of `lqcompile.gpu_bench.opening.PEERS`.
        what: what exactly runs, in words.
        run: runs once, and comes back when the GPU is done; copies nothing from or to the host.
        outputs: what the last run gave, float32, in the order of the network's outputs.
    """

    name: str
    what: str
    run: Run
    outputs: Callable[[], Sequence[Array]]


class Absent(Exception):  # noqa: N818 - not an error: the report lists the peer with the reason
    """A peer cannot run here; the message is the reason, without its name."""
