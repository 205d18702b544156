"""One thread against two (or more) over layers of many sizes: when threads pay, and that they never cost.

    python benchmarks/threads.py [--threads 2] [--rounds 41] [--target x86] [--quick]

Every layer is compiled twice: as shipped, serial under `PARALLEL_MIN_US` of estimated time, and with all of it in
threads. Both are timed with one thread and with more, interleaved in one run; medians. "Start" is what an empty
parallel loop takes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import tvm
import tvm_ffi
from layers import Layer, compiled_layer
from lqcompile.schedules import nest
from rich.console import Console
from rich.table import Table
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from lqcompile import cpu
from lqcompile.runtime import aligned, set_threads
from lqcompile.timing import Stopwatch

LAYERS = [
    *(Layer(inputs=64, outputs=64, size=size) for size in (2, 4, 7, 14, 28)),
    *(Layer(inputs=256, outputs=256, size=size) for size in (2, 7, 14)),
    *(Layer(inputs=channels, outputs=channels, size=1, kernel=1) for channels in (256, 1024, 4096)),
]
BITS = ((1, 1, "float"), (2, 2, "int8"))


def empty_loop(threads: int) -> Callable[[], object]:
    """A call of a parallel loop that does next to nothing."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        data = T.match_buffer(T.arg("data", T.handle()), (threads * 16,), "float32")
        with T.parallel(0, threads) as index:
            T.buffer_store(data, T.float32(1.0), [index * 16])
    target = tvm.target.Target({"kind": "llvm"})
    function = tvm.compile(tvm.IRModule({"main": builder.get()}), target=target)["main"]
    array = tvm_ffi.from_dlpack(aligned(threads * 64).view("float32"))
    return lambda: function(array)


def medians(runners: dict[str, Callable[[], object]], threads: tuple[int, ...], rounds: int) -> dict[str, list[float]]:
    """Microseconds of each runner, a median for each number of threads."""
    readings: dict[str, list[list[float]]] = {name: [[] for _ in threads] for name in runners}
    watches = []
    for count in threads:
        set_threads(count)
        watches.append(Stopwatch(runners))
    for _ in range(rounds):
        for index, count in enumerate(threads):
            set_threads(count)
            for name, seconds in watches[index].round().items():
                readings[name][index].append(1e6 * seconds)
    return {name: [statistics.median(times) for times in lists] for name, lists in readings.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--target", default="x86")
    parser.add_argument("--quick", action="store_true", help="only a layer under the limit and one over it")
    arguments = parser.parse_args()
    threads = (1, arguments.threads)
    ((_, start),) = medians({"empty": empty_loop(arguments.threads)}, threads, arguments.rounds).values()
    table = Table(
        "layer",
        "bits",
        "kernel",
        "1 thread us",
        f"{threads[1]} threads us",
        "ratio",
        "all in threads: 1 us",
        f"{threads[1]} us",
        "ratio",
        title=f"{cpu.cpu_name()}; an empty parallel loop takes {start:.1f} us with {threads[1]} threads",
    )
    slower = []
    shipped_limit = nest.PARALLEL_MIN_US
    for layer in (LAYERS[0], LAYERS[3]) if arguments.quick else LAYERS:
        for bits in BITS:
            runners = {}
            with tempfile.TemporaryDirectory() as folder:
                for name, limit in (("shipped", shipped_limit), ("parallel", 0.0)):
                    nest.PARALLEL_MIN_US = limit
                    runners[name], family = compiled_layer(layer, bits, Path(folder), arguments.target, (127, 255))
            times = medians(runners, threads, arguments.rounds)
            cells = [f"{time:.1f}" for time in times["shipped"]] + [f"{times['shipped'][0] / times['shipped'][1]:.2f}"]
            cells += [f"{time:.1f}" for time in times["parallel"]]
            cells += [f"{times['parallel'][0] / times['parallel'][1]:.2f}"]
            if times["shipped"][1] > 1.05 * times["shipped"][0]:
                slower.append(f"{layer.name} W{bits[0]}A{bits[1]}")
            table.add_row(layer.name, f"W{bits[0]}A{bits[1]}", family, *cells)
    console = Console(width=160)
    console.print(table)
    console.print(f"More than 5 % slower with {threads[1]} threads as shipped: {', '.join(slower) or 'none'}")


if __name__ == "__main__":
    main()
