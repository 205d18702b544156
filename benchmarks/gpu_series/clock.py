"""Times on the GPU, by events around graphs, of several things in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lqcompile.timing import Spread, spread

Timer = Callable[[], float]
"""Runs something and gives its seconds on the GPU."""


def in_turns(timers: Mapping[str, Timer], rounds: int) -> dict[str, Spread]:
    """Readings of all, interleaved, the order changing from round to round; one round before warms up."""
    readings: dict[str, list[float]] = {name: [] for name in timers}
    names = list(timers)
    for turn in range(-1, rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds = timers[name]()
            if turn >= 0:
                readings[name].append(seconds)
    return {name: spread(taken) for name, taken in readings.items()}


def torch_timer(torch: Any, call: Callable[[], Any], repeats: int) -> Timer:
    """Torch's work as a graph that does it `repeats` times."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeats):
            call()
    before, behind = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds() -> float:
        before.record()
        graph.replay()
        behind.record()
        torch.cuda.synchronize()
        return float(before.elapsed_time(behind)) / 1e3 / repeats

    return seconds
