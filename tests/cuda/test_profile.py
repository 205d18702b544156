"""`profile` and `report` on a GPU: the made-up driver, whose kernels take as long as they have thread blocks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import emulated_gpu
import pytest

from lqcompile.artifact import read_artifact
from lqcompile.cuda.model import CudaModel
from lqcompile.runtime import load

CLOCK_NS = 1000
"""Of a thread block."""

SAMPLES = 5


def profile(call: Callable, artifact: Path, *options: Any) -> dict[str, Any]:
    code, out, err = call("profile", artifact, "--limit", 0, "--json", *options)
    assert code == 0, err
    report: dict[str, Any] = json.loads(out)
    return report


def blocks(entry: dict[str, Any], samples: int) -> int:
    """Thread blocks of a launch."""
    if "fewer" in entry and samples <= entry["fewer"]["samples"]:
        entry = {**entry, **entry["fewer"]}
    return -(-samples * entry["rows"] // entry["tile"]) * entry["columns"]


def test_times_bounds_and_alternatives_of_each_layer(gpu: emulated_gpu.Driver, artifact: Path, call: Callable) -> None:
    gpu.set(clock=CLOCK_NS)
    report = profile(call, artifact, "--batch", SAMPLES)
    variant = read_artifact(artifact).manifest["variants"][0]
    times = {layer["name"]: layer["time"]["median_us"] for layer in report["layers"]}
    for region in variant["regions"]:
        launched = sum(
            blocks(entry, SAMPLES) for entry in variant["launches"]["steps"][region["first"] : region["last"]]
        )
        assert times[region["name"]] == pytest.approx(1e-3 * CLOCK_NS * launched / SAMPLES, rel=1e-3)
    assert 1e3 * report["whole"]["median_ms"] == pytest.approx(sum(times.values()), rel=1e-3)
    assert (report["samples"], report["threads"], report["call_us"]) == (SAMPLES, 2, 0)
    machine = report["machine"]
    assert (machine["cpu"], machine["cores"], machine["clock_hz"]) == ("Emulated GPU (9.0)", 2, 1.98e9)
    assert machine["bytes_per_s"] == {"memory": 2 * 3.201e9 * 6144 / 8}
    (layer,) = [layer for layer in report["layers"] if layer["work"]]
    work, peak = layer["work"], {"B1Mma": 17700, "Popcount": 512}
    least = 1e6 * work["macs"] * work["weight_bits"] * work["act_bits"] / (peak[work["loop"]] * 2 * 1.98e9)
    assert work["bound"] == pytest.approx({"us": least, "by": "arithmetic"})
    assert work["fraction_of_bound"] == pytest.approx(least / layer["time"]["median_us"])
    assert work["alternatives_from"] == "cost table" and len(work["alternatives"]) > 1 and work["reason"]
    assert layer["footprint_level"] == "L2"


def test_tables_and_the_page(gpu: emulated_gpu.Driver, artifact: Path, call: Callable, tmp_path: Path) -> None:
    gpu.set(clock=CLOCK_NS)
    code, out, err = call("profile", artifact, "--limit", 0)
    text = " ".join(out.split())
    assert code == 0, err
    assert "on this machine, Emulated GPU (9.0), 2 multiprocessors, one of 32 samples at a time" in text
    assert "Machine: 1.98 GHz at most; caches: L2 60 MiB; GB/s at most: memory 4917." in text
    assert "Times are the GPU's own, of one sample" in text and "a call into the code" not in text
    page = tmp_path / "report.html"
    code, _, err = call("report", artifact, "--limit", 0, "--batch", SAMPLES, "-o", page)
    assert code == 0, err
    html = page.read_text(encoding="utf-8")
    assert "2 multiprocessors, one of 5 samples at a time" in html and "GB/s read, at most, as the driver tells" in html


def test_a_kernel_without_a_known_peak_says_so(
    gpu: emulated_gpu.Driver, artifact: Path, call: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One layer has a peak and another has not; the row tells."""
    from lqcompile.cli import profiling

    gpu.set(clock=CLOCK_NS)
    report = profile(call, artifact, "--batch", SAMPLES)
    (layer,) = [layer for layer in report["layers"] if layer["work"]]
    layer["work"] |= {"bound": None, "fraction_of_bound": None}
    report["totals"]["fraction_of_bound"] = 0.5
    tables: list[Any] = []
    monkeypatch.setattr(profiling, "print_table", lambda _title, _columns, rows: tables.append(rows))
    profiling.show_profile(report)
    assert "no peak known" in next(row for row in tables[0] if row[0] == layer["name"])


def test_alternatives_are_timed(gpu: emulated_gpu.Driver, artifact: Path, call: Callable) -> None:
    gpu.set(clock=CLOCK_NS)
    options = ("--alternatives", "--model", artifact.parent / "model.onnx", "--batch", SAMPLES)
    (work,) = [layer["work"] for layer in profile(call, artifact, *options)["layers"] if layer["work"]]
    assert work["alternatives_from"] == "measured"
    own = next(entry for entry in work["alternatives"] if entry["kernel"] == work["kernel"])
    assert own["times"] == 1 and own["us"] > 0


def test_what_there_is_not_on_a_gpu(gpu: emulated_gpu.Driver, artifact: Path, call: Callable) -> None:
    for options, expected in (
        (
            ["--threads", 2],
            "found --threads with code for a GPU, expected none; profile on the machine that has",
        ),
        (
            ["--batch", 300],
            "profile: found --batch 300, expected at most 256: more samples go through a GPU",
        ),
    ):
        code, _, err = call("profile", artifact, *options)
        assert code == 1 and expected in " ".join(err.split())
    model = load(artifact)
    assert isinstance(model, CudaModel)
    each = model.engine._arena_bytes + 4 * (8 * 5 * 5 + 16 * 5 * 5)
    gpu.set(free=gpu.bytes_in_use + 3 * each)
    code, _, err = call("profile", artifact, "--batch", SAMPLES)
    assert code == 1
    assert "samples at a time, expected 5; give a smaller --batch, or close other programs" in " ".join(err.split())
