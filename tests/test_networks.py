"""benchmarks/networks.py: what it prints for programs, and its tables and plots."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lqcompile import cpu

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "networks.py"

sys.path.append(str(SCRIPT.parent))
from network_bench import tables  # noqa: E402

runs = pytest.mark.skipif(
    cpu.machine() != "x86_64" or "avx2" not in cpu.cpu_features(), reason="this CPU does not run x86-avx2"
)


@runs
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="models are made with torch")
def test_one_network_for_programs(tmp_path):
    options = ["--network", "resnet20", "--weight-bits", "2", "--act-bits", "2", "--image-size", "8", "--isa", "avx2"]
    options += ["--seconds", "0.1", "--against", "onnxruntime-fp32,onnxruntime-int8", "--memory", "--json"]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--cache", tmp_path], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    peers = ["onnxruntime-fp32", "onnxruntime-int8"]
    assert list(result["median_ms"]) == ["lqcompile", *peers]
    assert list(result["ratio"]) == peers
    for name in peers:
        assert result["ratio"][name] == result["median_ms"][name] / result["median_ms"]["lqcompile"]
    assert (result["target"], result["isa"]) == ("x86-avx2", "avx2")
    layers = [row for row in result["layers"] if "macs" in row]
    assert [row["weight_bits"] for row in layers] == [8, *[2] * 20, 8]
    assert all(row["us"] > 0 and row["reason"] and row["bound_us"] > 0 for row in layers)
    assert layers[1]["macs"] == 16 * 16 * 9 * 8 * 8
    peak = result["peak_mb"]
    assert peak["lqcompile"]["interpreter"] < peak["lqcompile"]["peak"] < peak["onnxruntime-fp32"]["peak"] * 5


def result(network="resnet18", act_bits=2, threads=1, isa="avx2"):
    layers = [
        {"name": "ingest", "us": 5.0},
        {
            "name": "conv1",
            "us": 100.0,
            "kernel": "lut",
            "reason": "cost table",
            "macs": 2_000_000,
            "gmac_per_s": 20.0,
            "bound_us": 50.0,
            "fraction_of_bound": 0.5,
        },
    ]
    return {
        "network": network,
        "weight_bits": 2,
        "act_bits": act_bits,
        "threads": threads,
        "isa": isa,
        "target": "x86-avx2",
        "cpu": "Some CPU",
        "rounds": 7,
        "weights": "random",
        "build_s": 3.5,
        "artifact_bytes": 1_000_000,
        "median_ms": {"lqcompile": 2.0, "openvino-int8": 5.0},
        "ratio": {"openvino-int8": 2.5},
        "openvino_precisions": {"openvino-int8": {"u8": 21}},
        "layers": layers,
    }


def test_tables():
    results = [result(), result(act_bits=32), result("alexnet", threads=2)]
    text = tables.markdown(results)
    assert text.count("### Some CPU, held to avx2, threads: ") == 2
    assert "| resnet18 | W2A2 | 2.00 | 5.00 (2.50) | 3.5 |" in text
    assert "| resnet18 | W2/32 | 2.00 | 5.00 (2.50) | 3.5 |" in text
    assert "as fast as it can (x86-avx2), threads: 1" in tables.markdown([result(isa=None)])
    layers = tables.layer_markdown(result())
    assert "| ingest | | 5 | | | |" in layers
    assert "| conv1 | lut | 100 | 2.0 | 20 | 50% |" in layers


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="plots are made with matplotlib")
def test_a_matrix_goes_on_behind_what_was_measured(tmp_path):
    """Both networks were: only the report is left to make."""
    cache, page = tmp_path / "cache", tmp_path / "page.md"
    page.write_text(f"{tables.BEGIN}\n{tables.END}\n", encoding="utf-8")
    for network in ("alexnet", "resnet20"):
        kept = cache / "results" / f"{network}-avx2.json"
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([result(network), result(network, threads=2)]), encoding="utf-8")
    options = ["--matrix", "--networks", "alexnet", "resnet20", "--isa", "avx2", "--resume", "--cache", cache]
    done = subprocess.run(
        [sys.executable, SCRIPT, *options, "--write", page, "--json"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert [(item["network"], item["threads"]) for item in json.loads(done.stdout)] == [
        ("alexnet", 1),
        ("alexnet", 2),
        ("resnet20", 1),
        ("resnet20", 2),
    ]
    text = page.read_text(encoding="utf-8")
    assert "| resnet20 | W2A2 | 2.00 | 5.00 (2.50) | 3.5 |" in text
    assert "alexnet W2A2, batch 1, threads: 1, both sides held to avx2; Some CPU: layer by layer" in text
    for threads in (1, 2):
        assert f"(figures/networks-avx2-{threads}.svg)" in text
        assert (tmp_path / "figures" / f"networks-avx2-{threads}.svg").exists()


def test_text_goes_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n", encoding="utf-8")
    tables.write_section(page, "new")
    assert page.read_text(encoding="utf-8") == f"before\n{tables.BEGIN}\n\nnew\n{tables.END}\nafter\n"
    page.write_text("no marks", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page.md: found no lines '<!-- networks: begin -->' and"):
        tables.write_section(page, "new")
    assert page.read_text(encoding="utf-8") == "no marks"


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="plots are made with matplotlib")
def test_plots_depend_on_the_figures_alone(tmp_path):
    results = [result(), result("alexnet"), result("alexnet", act_bits=32)]
    for name in ("one.svg", "two.svg"):
        tables.plot(results, "openvino-int8", tmp_path / "figures" / name)
    one, two = ((tmp_path / "figures" / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two
    assert b"<svg" in one
