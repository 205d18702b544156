"""Peak memory of a process that runs a network, ours or ONNX Runtime's.

    python benchmarks/network_bench/memory.py lqcompile model.tar
    python benchmarks/network_bench/memory.py onnxruntime float_twin.onnx

prints megabytes: of the interpreter with NumPy alone, and with the network after three calls.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np


def peak_mb(kind: str, path: Path) -> dict[str, float]:
    """Peak resident memory in a process of its own."""
    done = subprocess.run([sys.executable, __file__, kind, str(path)], check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main(kind: str, path: str) -> None:
    """Load, run, print."""
    before = _peak()
    # As installed without extras: TVM's FFI imports torch where it finds it, for conversions that are not made here.
    sys.modules["torch"] = None  # type: ignore[assignment]
    if kind == "lqcompile":
        from lqcompile.runtime import load

        model = load(path, threads=1)
        feeds = {port.name: np.zeros((1, *port.shape), np.float32) for port in model.inputs}
        run = lambda: model.run(feeds)  # noqa: E731
    else:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = {
            value.name: np.zeros([size if isinstance(size, int) else 1 for size in value.shape], np.float32)
            for value in session.get_inputs()
        }
        run = lambda: session.run(None, feeds)  # noqa: E731
    for _ in range(3):
        run()
    print(json.dumps({"interpreter": before, "peak": _peak()}))


def _peak() -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main(*sys.argv[1:])
