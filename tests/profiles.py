"""A made-up network and what was measured of it: what tests of profiles and reports start from."""

from __future__ import annotations

import json
from typing import Any

from lqcompile.profiling.caches import Cache
from lqcompile.profiling.machine import Machine
from lqcompile.profiling.measure import Measurement
from lqcompile.profiling.passes import Readings
from lqcompile.profiling.profile import make_profile

MACHINE = Machine(
    clock_hz=2e9,
    caches=(Cache(level=1, bytes=32 << 10, cores=1), Cache(level=2, bytes=1 << 20, cores=1)),
    bytes_per_s={"L1": 100e9, "L2": 50e9, "memory": 5e9},
    threads=1,
    os="Linux-6.1",
)

NOTHING_KNOWN = {"clock_mhz": None, "governor": None, "temperature_c": None, "throttled": None}


def layer(name: str, **changes: Any) -> dict[str, Any]:
    """A low-bit convolution of 4,096,000 MACs: 32 us for four plane pairs at 256 a cycle and 2 GHz."""
    return {
        "name": name,
        "op": "LQConv",
        "weight_bits": 2,
        "act_bits": 2,
        "kernel": "lut",
        "reason": "cost table: 1.5 x popcount at 4 plane pairs",
        "tile": None,
        "measured": [],
        "estimates": [{"kernel": "lut", "times": 1.0}, {"kernel": "popcount", "times": 1.5}],
        "loop": "Lookup",
        "macs": 4_096_000,
        "weights": 40_960,
        "packed_bytes": 11_000,
        "kernel_size": [3, 3],
        "group": 1,
        "in_shape": [64, 10, 10],
        "out_shape": [64, 10, 10],
    } | changes


def region(name: str, op: str, parameters: int, read: int, written: int, scratch: int = 0) -> dict[str, Any]:
    """A region of a manifest."""
    sizes = {"parameters": parameters, "read": read, "written": written, "scratch": scratch}
    return {"name": name, "op": op, "fused": ["Affine", "Clamp"] if parameters else [], "bytes": sizes}


def variant(**changes: Any) -> dict[str, Any]:
    """An image is quantized, goes through a convolution and a linear layer, and leaves."""
    linear = {
        "kernel": "dot8",
        "loop": "DotPairs",
        "op": "Gemm",
        "weight_bits": 8,
        "act_bits": 8,
        "reason": "8-bit weights on 8-bit codes",
        "estimates": [],
        "macs": 6400,
        "weights": 6400,
        "packed_bytes": 6440,
        "kernel_size": [1, 1],
        "in_shape": [640, 1, 1],
        "out_shape": [10, 1, 1],
    }
    return {
        "name": "x86-avx2",
        "arena_bytes": 20_000,
        "layers": [layer("conv"), layer("fc", **linear)],
        "regions": [
            region("quantize", "QuantizeLinear", 0, 400, 100),
            region("conv", "LQConv", 20_000, 1_600, 1_600, 12_000),
            region("fc", "Gemm", 150_000, 640, 64),
            region("output_0", "Copy", 0, 64, 40),
        ],
    } | changes


MANIFEST = {
    "target": "x86",
    "lqcompile": "0.1.0",
    "onnx": {"name": "model.onnx", "bytes": 30_000, "sha256": "0" * 64},
    "tools": {"apache-tvm": "0.27.0"},
    "inputs": [{"name": "x", "shape": [1, 10, 10], "dtype": "float32"}],
    "outputs": [{"name": "y", "shape": [10], "dtype": "float32"}],
}

INFO = {
    "machine": "x86_64",
    "system": "linux",
    "cpu": "Test CPU <1>",
    "features": ["avx2"],
    "cores": 2,
    "emulator": None,
    "versions": {"lqcompile": "0.1.0", "apache-tvm": "0.27.0", "numpy": "2.4"},
}


def measurement(**changes: Any) -> Measurement:
    """Three passes; a call takes 1 us, the network 120, its regions 10, 80, 21 and less than a call."""
    us = 1e-6
    readings = Readings(
        whole=[120 * us, 119 * us, 140 * us],
        regions={
            "quantize": [11 * us, 11 * us, 12 * us],
            "conv": [81 * us, 80 * us, 90 * us],
            "fc": [22 * us, 22 * us, 30 * us],
            "output_0": [0.9 * us, 0.8 * us, 1.5 * us],
        },
        call=[1 * us, 1 * us, 2 * us],
    )
    options = {
        "place": "this machine",
        "info": INFO,
        "machine": MACHINE,
        "readings": readings,
        "before": NOTHING_KNOWN,
        "after": NOTHING_KNOWN,
        "settled": True,
    }
    return Measurement(**(options | changes))


def profile(**changes: Any) -> dict[str, Any]:
    """The profile of it all, as it is saved."""
    made = make_profile(MANIFEST, variant(**changes), measurement(), file="m.tar", artifact_bytes=45_000)
    found: dict[str, Any] = json.loads(json.dumps(made))
    return found


TALLY = {"codes": 12_345, "mismatches": 0, "near_threshold": 1, "integers": 500, "integer_mismatches": 0}
TALLY |= {"floats": 10, "float_mismatches": 0}

VERIFICATION = {
    "passed": True,
    "reference": "integer form",
    "forced": {"layers": 2, **TALLY, "per_layer": []},
    "free": {"samples": 1000, "top1_agreement": 1.0, "max_abs_diff": 0.0, "outputs": 30, "output_mismatches": 0},
    "accuracy": {"reference": 0.93, "compiled": 0.935},
}

BENCH = {
    "median_ms": 0.12,
    "threads": 1,
    "batch": 1,
    "cpu": "Test CPU",
    "against": {
        "onnxruntime-fp32": {"median_ms": 0.48, "p90_ms": 0.5, "ratio": 4.0},
        "onnxruntime-int8": {"median_ms": 0.18, "p90_ms": 0.2, "ratio": 1.5},
    },
}
